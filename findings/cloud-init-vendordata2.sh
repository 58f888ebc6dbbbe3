#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# cloud-init 22.4 (Debian 12) keeps all of vendor_data2.json on the machine, in its pickled data source; 25.1 (Debian 13) keeps the
# value of the key "cloud-init" alone, and nothing of the other targets of Nova's vendordata_dynamic_targets. So a program that comes
# later finds what its target said by asking the metadata service or the config drive itself, and not in /var/lib/cloud or /run/cloud-init.
#
# Needs apt's own sources on Debian 12 (amd64) and its mirror for Debian 13. Nothing is installed; the metadata service is a
# Python server on loopback. Ends with 0 while cloud-init behaves so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
# shellcheck disable=SC2016 # apt puts in what they mean
site=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Identifier: Packages' | sed -n 's/ bookworm$//p' | head -n 1)
mkdir -p 12 13 lists/partial cache/archives/partial
echo "deb $site trixie main" >sources
other="-o Dir::Etc::sourcelist=$folder/sources -o Dir::Etc::sourceparts=- -o Dir::State::lists=$folder/lists -o Dir::Cache=$folder/cache"
{
    apt-get download -q cloud-init=22.4.2-1+deb12u4 python3-attr python3-configobj python3-jinja2 python3-json-pointer python3-jsonpatch \
        python3-jsonschema python3-markupsafe python3-netifaces python3-oauthlib python3-pyrsistent python3-requests python3-six \
        python3-yaml python3-urllib3 python3-certifi python3-chardet python3-idna
    mv ./*.deb 12/
    # shellcheck disable=SC2086 # they are words
    apt-get $other -q update
    cd 13
    # shellcheck disable=SC2086
    apt-get $other -q download cloud-init=25.1.4-1+deb13u1
    cd ..
} >apt.log 2>&1 || { cat apt.log; exit 1; }
for package in 12/*.deb; do dpkg-deb -x "$package" 12; done
dpkg-deb -x 13/*.deb 13

cat >probe.py <<'PROBE'
import http.server, json, pickle, sys, threading

WORD = "a-word-of-another-target"
FILES = {
    "meta_data.json": {"uuid": "i-1", "hostname": "web"}, "network_data.json": {}, "vendor_data.json": {},
    "vendor_data2.json": {"cloud-init": "#cloud-config\n{}\n", "other": {"token": WORD}},
}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = self.path.strip("/").split("/")
        if path == ["openstack"]:
            body = b"2018-08-27\nlatest"
        elif path[-1] in FILES:
            body = json.dumps(FILES[path[-1]]).encode()
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

from cloudinit import distros, helpers, version
from cloudinit.sources import DataSourceOpenStack as module

paths = helpers.Paths({"cloud_dir": sys.argv[1], "run_dir": sys.argv[1]})
where = {"metadata_urls": ["http://127.0.0.1:%d" % server.server_address[1]], "timeout": 5, "max_wait": 30}
module.detect_openstack = lambda *arguments, **more: True  # whatever machine this is
source = module.DataSourceOpenStack({"datasource_list": ["OpenStack"], "datasource": {"OpenStack": where}}, distros.fetch("debian")("debian", {}, paths), paths)
source.ds_cfg = where
if not source._get_data():
    sys.exit("it found no data")
kept = pickle.dumps(source)  # what cloud-init writes to /var/lib/cloud/instance/obj.pkl
print(version.version_string(), "keeps its own part:", b"#cloud-config" in kept, "- another target's:", WORD.encode() in kept)
PROBE

{
    PYTHONPATH=12/usr/lib/python3/dist-packages /usr/bin/python3 probe.py "$(mktemp -d -p .)" 2>err &&
    PYTHONPATH=13/usr/lib/python3/dist-packages:12/usr/lib/python3/dist-packages /usr/bin/python3 probe.py "$(mktemp -d -p .)" 2>>err
} >seen || {
    cat seen err
    exit 1
}
cat seen
cat >wanted <<'WANTED'
22.4.2 keeps its own part: True - another target's: True
25.1.4 keeps its own part: True - another target's: False
WANTED
cmp seen wanted
