# Fetches the revocation list as the later job of Tatu's instances does:
# tatu-revoked.py URL PROJECT FILE
import base64
import json
import sys
import urllib.request

url, project, path = sys.argv[1:]
with urllib.request.urlopen(url + "/noauth/revokeduserkeys/" + project) as response:
    assert response.status == 200, response.status
    body = json.loads(response.read().decode())
assert "revoked_keys_data" in body, body
assert body["encoding"] == "base64", body
assert body["auth_id"] == project, body
with open(path, "wb") as f:
    f.write(base64.b64decode(body["revoked_keys_data"]))
