// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// LDAP is a private OpenLDAP server (Debian's slapd) with the attributes of Kerberos. Whoever runs the tests may do everything by
// its socket; others come by SASL with Kerberos, as in FreeIPA.
type LDAP struct {
	Suffix string // the DN below which all is
	Socket string // the URL by which its administrator comes
	URL    string // the URL by which others come

	t       testing.TB
	dir     string
	keytab  string // path of the server's keys
	krb5    string // path of its krb5.conf
	process *program
}

// startLDAP fills a new server in the folder and starts it at the address, under the name. Its keys and its krb5.conf may be
// written later, before the first caller comes.
func startLDAP(t testing.TB, dir, name, address, domain string) *LDAP {
	t.Helper()
	for _, path := range []string{sbin("slapd"), "/usr/bin/ldapwhoami", kerberosSchema} {
		if _, err := os.Stat(path); err != nil {
			Need(t, fmt.Errorf("%s of OpenLDAP: %w", filepath.Base(path), ErrMissing))
		}
	}
	l := &LDAP{
		Suffix: "dc=" + strings.ReplaceAll(domain, ".", ",dc="), Socket: "ldapi://" + url.PathEscape(filepath.Join(dir, "ldapi")),
		URL: "ldap://" + name, t: t, dir: dir, keytab: filepath.Join(dir, "ldap.keytab"), krb5: filepath.Join(dir, "krb5.conf"),
	}
	data := filepath.Join(dir, "directory")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	schema, err := unpacked(kerberosSchema)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "kerberos.schema"), schema)
	writeFile(t, filepath.Join(dir, "slapd.conf"), fmt.Sprintf(`include /etc/ldap/schema/core.schema
include %[1]s/kerberos.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/slapd.pid
sasl-host %[2]s
sasl-realm %[3]s
database mdb
suffix "%[4]s"
directory %[5]s
dbnosync
rootdn "gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth"
index objectClass,krbPrincipalName eq
access to * by users read
`, dir, name, strings.ToUpper(domain), l.Suffix, data))
	writeFile(t, filepath.Join(dir, "base.ldif"), fmt.Sprintf("dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: %s\no: test\n",
		l.Suffix, strings.SplitN(domain, ".", 2)[0]))
	l.run("slapadd", "-f", filepath.Join(dir, "slapd.conf"), "-l", filepath.Join(dir, "base.ldif"))
	l.process = &program{
		t: t, log: filepath.Join(dir, "slapd.log"), dir: dir, path: sbin("slapd"),
		args: []string{"-d", "0", "-f", filepath.Join(dir, "slapd.conf"), "-h", l.Socket + " ldap://" + address},
		env:  []string{"KRB5_KTNAME=" + l.keytab, "KRB5_CONFIG=" + l.krb5},
		ready: func(ctx context.Context) error {
			return finish(exec.CommandContext(ctx, "/usr/bin/ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", l.Socket))
		},
	}
	l.Start()
	return l
}

// kerberosSchema comes with krb5-kdc-ldap.
const kerberosSchema = "/usr/share/doc/krb5-kdc-ldap/kerberos.schema.gz"

func unpacked(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := gzip.NewReader(file)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(content)
	return string(text), err
}

// Start starts the server, again after Stop.
func (l *LDAP) Start() { l.t.Helper(); l.process.start() }

// Stop ends the server as a crash does.
func (l *LDAP) Stop() { l.t.Helper(); l.process.stop() }

// Change makes changes, in the form of LDIF (RFC 2849).
func (l *LDAP) Change(ldif string) {
	l.t.Helper()
	c := exec.CommandContext(l.t.Context(), "/usr/bin/ldapmodify", "-Q", "-Y", "EXTERNAL", "-H", l.Socket)
	c.Stdin = strings.NewReader(ldif)
	if err := finish(c); err != nil {
		l.t.Fatal(err)
	}
}

func (l *LDAP) run(name string, args ...string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), startTimeout)
	defer cancel()
	if err := finish(exec.CommandContext(ctx, sbin(name), args...)); err != nil {
		l.t.Fatal(err)
	}
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// program is a server's program that a test may end and start again.
type program struct {
	t       testing.TB
	log     string // path of the file with all that it says
	dir     string
	path    string
	args    []string
	env     []string
	ready   func(context.Context) error // nil: it answers
	command *exec.Cmd
	exited  chan struct{}
}

// start starts the program and waits until it answers. It ends with the test at the latest.
func (p *program) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	s := &Server{folder: p.dir}
	// It outlives the context of the test, which ends before what is cleaned up.
	p.command = s.run(context.Background(), p.path, p.args...)
	p.command.Env = append(p.command.Env, p.env...)
	p.command.Stdout, p.command.Stderr = log, log
	if err := p.command.Start(); err != nil {
		p.t.Fatal(err)
	}
	if p.exited == nil {
		p.t.Cleanup(p.stop)
	}
	exited := make(chan struct{})
	p.exited = exited
	go func(c *exec.Cmd) {
		_ = c.Wait() // it is killed on purpose
		close(exited)
	}(p.command)
	ctx, cancel := context.WithTimeout(p.t.Context(), startTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-exited:
			p.t.Fatalf("%s ended as it began: %s", p.path, p.said())
		case <-ctx.Done():
			p.t.Fatalf("%s does not answer: %v: %s", p.path, err, p.said())
		case <-again.C:
		}
	}
}

// stop ends the program with all its processes, as a crash does.
func (p *program) stop() {
	p.t.Helper()
	if err := (&Server{command: p.command, exited: p.exited}).Kill(); err != nil {
		p.t.Error(err)
	}
}

// said returns the end of what the program said.
func (p *program) said() []byte {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return tail(bytes.TrimSpace(text))
}
