# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Serve Keystone on the open socket that is descriptor 3, until stdin closes.

Each connection has a thread, so that an idle one holds nobody up; Keystone
itself runs in a single one, as its SQLite sessions must not change threads.
"""

import concurrent.futures
import os
import socket
import socketserver
import sys
import threading
import wsgiref.simple_server

from keystone.server.wsgi import initialize_public_application


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv[1:] = []
keystone = initialize_public_application()
keystone_thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)


def application(environ, start_response):
    return keystone_thread.submit(lambda: list(keystone(environ, start_response))).result()


server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.server_address = server.socket.getsockname()
server.server_name, server.server_port = "127.0.0.1", server.server_address[1]
server.setup_environ()
server.set_app(application)
server.serve_forever()
