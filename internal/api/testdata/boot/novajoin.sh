#!/bin/sh
# Finds what novajoin's boot script hands to ipa-client-install: in the part
# "join" of the vendordata, by a line of Python for each.
#
# novajoin.sh VENDOR_DATA
data=$(cat "$1")
of() {
	echo $data | python3 -c 'import json, sys; obj = json.load(sys.stdin); print(obj.get("join", {}).get(sys.argv[1], ""))' "$1"
}
fqdn=$(of hostname)
if [ -z "$fqdn" ]; then
	echo "Unable to determine hostname" >&2
	exit 1
fi
realm=$(of krb_realm)
otp=$(of ipaotp)
echo "hostname=$fqdn domain=${fqdn#*.} realm=$realm otp=$otp"
