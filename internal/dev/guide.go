// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"strings"
	"text/template"
)

// shell is what the templates need to write for a shell.
var shell = template.FuncMap{"quote": quote}

// summary says what runs where. Passwords stay in the users' files.
var summary = template.Must(template.New("summary").Funcs(shell).Parse(
	`Muster     {{.MusterURL}}
Keystone   {{.KeystoneURL}}
Nova       {{.NovaURL}}
Metadata   {{.MetadataURL}}
Neutron    {{.NeutronURL}}
Glance     {{.GlanceURL}}
FreeIPA    {{.FreeIPAURL}}
Folder     {{.Dir}}{{if .Temporary}} (removed at the end){{end}}
Settings   {{.ConfigFile}}
{{range .Users}}User       {{.Name}}, in project {{.Project}}: . {{quote .File}}
{{end}}`))

// commands are for a POSIX shell with curl and ssh-keygen. They read Muster's
// answers with sed, as the boot scripts of instances do.
var commands = template.Must(template.New("commands").Funcs(shell).Parse(
	`MUSTER={{.MusterURL}}
NOVA={{.NovaURL}}
DIR={{quote .Dir}}

# Log in as demo, who is a member of project demo. The openstack client works now, too: openstack token issue
. "$DIR/demo-openrc.sh"
TOKEN=$(curl -sSi "$OS_AUTH_URL/auth/tokens" -H 'Content-Type: application/json' -d '{"auth": {
  "identity": {"methods": ["password"], "password": {"user": {
    "name": "'"$OS_USERNAME"'", "password": "'"$OS_PASSWORD"'", "domain": {"name": "Default"}}}},
  "scope": {"project": {"name": "'"$OS_PROJECT_NAME"'", "domain": {"name": "Default"}}}}}' |
  tr -d '\r' | sed -n 's/^X-Subject-Token: //p')

# Boot an instance that asks for enrolment in FreeIPA. While it boots, Nova asks Muster for its vendordata, and Muster
# knows it as a host from then on.
curl -sS $NOVA/servers -H "X-Auth-Token: $TOKEN" -H 'Content-Type: application/json' -d '{
  "server": {"name": "web-1", "imageRef": "", "flavorRef": "1", "metadata": {"ipa_enroll": "true", "ipa_hostclass": "web"}}}'; echo
for try in 1 2 3 4 5; do
  curl -sS $MUSTER/v1/hosts -H "X-Auth-Token: $TOKEN" | grep '"id"' && break || sleep 1
done; echo

# Its place in FreeIPA. The one-time password to join is in its vendordata, for itself alone.
for try in 1 2 3 4 5; do
  curl -sS $MUSTER/v1/enrolments -H "X-Auth-Token: $TOKEN" | grep '"created"' && break || sleep 1
done; echo

# Make a key, have it certified, and look at the certificate.
test -e "$DIR/demo-key" || ssh-keygen -q -t ed25519 -N '' -C demo -f "$DIR/demo-key"
curl -sS $MUSTER/v1/usercerts -H "X-Auth-Token: $TOKEN" -H 'Content-Type: application/json' -d '{
  "user_id": "{{.Demo.ID}}", "auth_id": "{{.Demo.ProjectID}}",
  "pub_key": "'"$(cat "$DIR/demo-key.pub")"'"}' |
  sed -n 's/.*"cert": "\([^"]*\)".*/\1/p' > "$DIR/demo-key-cert.pub"
ssh-keygen -L -f "$DIR/demo-key-cert.pub"

# The one line by which ssh knows all hosts of the project, and the key that its hosts trust (TrustedUserCAKeys).
curl -sS $MUSTER/v1/authorities/{{.Demo.ProjectID}} -H "X-Auth-Token: $TOKEN" > "$DIR/authority.json"
echo >> "$DIR/authority.json"
sed -n 's/.*"host_pub_key": "\([^"]*\)".*/@cert-authority * \1/p' "$DIR/authority.json" | tee "$DIR/known_hosts"
sed -n 's/.*"user_pub_key": "\([^"]*\)".*/\1/p' "$DIR/authority.json"

# With a host certificate on HOST, this logs in. See it done with a real sshd: muster demo
# ssh -i "$DIR/demo-key" -o CertificateFile="$DIR/demo-key-cert.pub" -o UserKnownHostsFile="$DIR/known_hosts" member@HOST
`))

// Summary tells people what runs where.
func (e *Environment) Summary() string { return e.fill(summary) }

// Commands are for people to paste into a shell, in this order.
func (e *Environment) Commands() string { return e.fill(commands) }

func (e *Environment) fill(text *template.Template) string {
	var filled strings.Builder
	err := text.Execute(&filled, struct {
		*Environment
		Temporary bool
		Demo      User
	}{e, e.temporary, e.User("demo")})
	if err != nil {
		// The templates and what fills them stand above.
		return err.Error()
	}
	return filled.String()
}

// quote makes one word of a text for a POSIX shell.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
