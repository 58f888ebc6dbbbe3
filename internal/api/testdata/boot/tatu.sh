#!/bin/bash
# Reads Muster's answers as the boot script of Tatu's instances does: no JSON
# reader, but grep over text that lost its line feeds, and a POST with curl's
# own content type.
#
# tatu.sh URL META_DATA VENDOR_DATA HOST_KEY.pub FOLDER
set -u
url=$1 folder=$5
fail() { echo "$*" >&2; exit 1; }

metadata=$(cat "$2")
auth_id=$(echo $metadata | grep -Po 'project_id": "\K[^"]*')
host_id=$(echo $metadata | grep -Po 'uuid": "\K[^"]*')
[ -n "$auth_id" ] && [ -n "$host_id" ] || fail "no IDs in the metadata"

vendordata=$(cat "$3")
token=$(echo $vendordata | grep -Po '"token": "\K[^"]*')
[ -z "$token" ] && fail "no token"
[ $(echo "$token" | wc -l) = 1 ] || fail "more than one token"
ca_user=$(echo $vendordata | grep -Po '"auth_pub_key_user": "\K[^"]*')
echo "$ca_user" >"$folder/ca_user.pub"
root_principals=$(echo $vendordata | grep -Po '"root_principals": "\K[^"]*')
users=$(echo $vendordata | grep -Po '"users": "\K[^"]*')
sudoers=$(echo $vendordata | grep -Po '"sudoers": "\K[^"]*')
ssh_port=$(echo $vendordata | grep -Po '"ssh_port": \K[^,]*')
pam_sudo=$(echo $vendordata | grep -Po '"pam_sudo": \K[^,]*')
printf '%s\n' "root_principals=$root_principals" "users=${users//,/ }" "sudoers=${sudoers//,/ }" \
	"ssh_port=$ssh_port" "pam_sudo=$pam_sudo" >"$folder/settings"

host_pub_key=$(cat "$4")
data=$(echo {\"token_id\": \"$token\", \"host_id\": \"$host_id\", \"pub_key\": \"$host_pub_key\"})
response=$(curl -s -w "%{http_code}" -d "$data" -X POST "$url/noauth/hostcerts")
code=${response:(-3)}
[ "$code" = 200 ] || fail "answer $code: $response"
cert=$(echo $response | grep -Po 'cert": "\K[^"]*')
[[ $cert == *-cert-v01@openssh.com\ * ]] || fail "no certificate: $cert"
echo $cert >"${4%.pub}-cert.pub"

# The job that runs each minute.
curl -s "$url/noauth/revokeduserkeys/$auth_id" | grep -Po 'revoked_keys_data": "\K[^"]*' | base64 -d >"$folder/revoked-keys"
