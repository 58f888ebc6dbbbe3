# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Serve a WSGI application on the open socket that is descriptor 3, until stdin closes.

Arguments: MODULE:APPLICATION, or MODULE:FUNCTION(), which makes it, where MODULE
may be the path of a file, and how many requests it works on at once. Each
connection has a thread, so that an idle one holds nobody up; the application
has threads of its own, as few as it bears.
"""

import concurrent.futures
import importlib
import importlib.util
import os
import socket
import socketserver
import sys
import threading
import wsgiref.simple_server


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
module, name = sys.argv[1].split(":")
workers = concurrent.futures.ThreadPoolExecutor(max_workers=int(sys.argv[2]))
sys.argv[1:] = []
if module.endswith(".py"):
    found = importlib.util.spec_from_file_location("served", module)
    served = importlib.util.module_from_spec(found)
    found.loader.exec_module(served)
else:
    served = importlib.import_module(module)
made = getattr(served, name.removesuffix("()"))
if name.endswith("()"):
    made = made()


def application(environ, start_response):
    return workers.submit(lambda: list(made(environ, start_response))).result()


server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.server_address = server.socket.getsockname()
server.server_name, server.server_port = "127.0.0.1", server.server_address[1]
server.setup_environ()
server.set_app(application)
server.serve_forever()
