// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/muster-cloud/muster/internal/custody"
)

// musterConf is the configuration, as a user would write it.
var musterConf = template.Must(template.New("muster.conf").Funcs(template.FuncMap{"value": value}).Parse(
	`# Written by muster dev at each start: changes here are lost. Settings of your
# own belong into a file in the folder muster.conf.d beside this one.

[DEFAULT]
host = dev
shutdown_timeout = 30s
transport_url = memory://

[database]
connection = {{value .Database}}

[keystone_authtoken]
auth_url = {{value .KeystoneURL}}
auth_type = password
username = muster
user_domain_name = Default
password_file = keystone.password
project_name = service
project_domain_name = Default

[custody]
master_key_file = master.key

[vendordata]
api_endpoint = {{value .MusterURL}}

[agent]
directory = {{value .Programs}}
poll_interval = 10s

[ipa]
servers = {{value .FreeIPAAddress}}
domain = {{value .IPADomain}}
username = {{value .IPAUser}}
password_file = ipa.password
cafile = ipa-ca.crt
# This machine may be the client of another FreeIPA.
client_conf =

[enroll]
enabled = true

[project:demo]
allowed_classes = web, db

[listen:main]
address = {{value .Address}}
faces = tatu, vendordata, join, instance, operator, health, metrics
`))

// value escapes what would be a reference to another option.
func value(text string) string { return strings.ReplaceAll(text, "$", "$$") }

// writeConfig writes muster.conf and the secrets that it refers to. The master
// key is kept where there is one: it opens what the database holds.
func (e *Environment) writeConfig(host, port, programs string) error {
	masterKey := filepath.Join(e.Dir, "master.key")
	if _, err := os.Stat(masterKey); errors.Is(err, fs.ErrNotExist) {
		if err := writeSecret(masterKey, custody.NewMasterKey()+"\n"); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"keystone.password": e.Cloud.Identity.Password("muster") + "\n",
		"ipa.password":      e.ipaPassword + "\n",
		"ipa-ca.crt":        string(e.Cloud.FreeIPA.CA()),
	} {
		if err := writeSecret(filepath.Join(e.Dir, name), text); err != nil {
			return err
		}
	}
	database := url.URL{Path: filepath.Join(e.Dir, "muster.db")}
	var text bytes.Buffer
	err := musterConf.Execute(&text, map[string]string{
		"Database":       "sqlite:///" + database.EscapedPath(),
		"KeystoneURL":    e.KeystoneURL,
		"MusterURL":      reachable(host, port),
		"Address":        net.JoinHostPort(host, port),
		"FreeIPAAddress": e.Cloud.FreeIPAAddress(),
		"Programs":       programs,
		"IPADomain":      ipaDomain,
		"IPAUser":        ipaUser,
	})
	if err != nil {
		return err
	}
	e.ConfigFile = filepath.Join(e.Dir, "muster.conf")
	return os.WriteFile(e.ConfigFile, text.Bytes(), 0o600)
}

// reachable is the URL of a listener as seen from this machine.
func reachable(host, port string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// openrc is what the openstack client, and the commands that muster dev
// prints, read.
func (e *Environment) openrc(user User) string {
	return fmt.Sprintf(`export OS_IDENTITY_API_VERSION=3
export OS_AUTH_URL=%s
export OS_USERNAME=%s
export OS_PASSWORD=%s
export OS_PROJECT_NAME=%s
export OS_USER_DOMAIN_NAME=Default
export OS_PROJECT_DOMAIN_NAME=Default
`, e.KeystoneURL, user.Name, user.Password, user.Project)
}

// writeSecret writes a file that only this user may read, whatever it was before.
func writeSecret(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}
