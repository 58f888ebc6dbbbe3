// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// KDC is a private MIT Kerberos key distribution centre (Debian's krb5-kdc) on loopback, with its own database.
type KDC struct {
	Realm   string
	Address string // host:port, TCP and UDP
	Conf    string // path of a krb5.conf for clients

	t       testing.TB
	dir     string
	process *exec.Cmd
	exited  chan error
}

// KDCOptions shape a KDC.
type KDCOptions struct {
	Realm      string        // "EXAMPLE.TEST" if empty
	MaxLife    time.Duration // the longest life of a ticket; a day if zero
	Principals []string      // made at the start, with random keys

	ldap *LDAP // has its database; nil: files
}

// StartKDC makes a realm in a temporary folder and starts its KDC. It is stopped when the test ends. Without the
// programs the test is skipped, or fails where services are required.
func StartKDC(t testing.TB, options KDCOptions) *KDC {
	t.Helper()
	for _, program := range []string{"krb5kdc", "kdb5_util", "kadmin.local"} {
		if _, err := os.Stat(sbin(program)); err != nil {
			Need(t, fmt.Errorf("%s of MIT Kerberos: %w", program, ErrMissing))
		}
	}
	if options.Realm == "" {
		options.Realm = "EXAMPLE.TEST"
	}
	if options.MaxLife == 0 {
		options.MaxLife = 24 * time.Hour
	}
	k := &KDC{Realm: options.Realm, t: t, dir: t.TempDir()}
	k.Conf = filepath.Join(k.dir, "krb5.conf")
	t.Cleanup(k.Stop)
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	k.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	k.configure(options)
	const masterKey = "master-key-of-a-test"
	if options.ldap == nil {
		k.run("kdb5_util", "create", "-r", k.Realm, "-s", "-P", masterKey)
	} else {
		k.run("kdb5_ldap_util", "-r", k.Realm, "create", "-subtrees", options.ldap.Suffix, "-s", "-P", masterKey)
	}
	for _, principal := range options.Principals {
		k.AddPrincipal(principal)
	}
	if err := k.start(); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *KDC) configure(options KDCOptions) {
	k.t.Helper()
	life := int(options.MaxLife.Seconds())
	k.write("krb5.conf", fmt.Sprintf(`[libdefaults]
 default_realm = %[1]s
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
 dns_canonicalize_hostname = false
 udp_preference_limit = 0
 ticket_lifetime = %[3]ds
 permitted_enctypes = aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96
[realms]
 %[1]s = {
  kdc = %[2]s
 }
`, k.Realm, k.Address, life))
	database := "database_name = " + filepath.Join(k.dir, "principal")
	modules := ""
	if l := options.ldap; l != nil {
		database = "database_module = ldap"
		modules = fmt.Sprintf(`[dbmodules]
 ldap = {
  db_library = kldap
  ldap_kerberos_container_dn = cn=krbContainer,%s
  ldap_servers = %s
  ldap_kdc_sasl_mech = EXTERNAL
  ldap_kadmind_sasl_mech = EXTERNAL
  disable_last_success = true
  disable_lockout = true
 }
`, l.Suffix, l.Socket)
	}
	k.write("kdc.conf", fmt.Sprintf(`[kdcdefaults]
 kdc_listen = %[2]s
 kdc_tcp_listen = %[2]s
[realms]
 %[1]s = {
  %[5]s
  key_stash_file = %[3]s/stash
  acl_file = %[3]s/kadm5.acl
  max_life = %[4]ds
  max_renewable_life = %[4]ds
  supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
 }
%[6]s`, k.Realm, k.Address, k.dir, life, database, modules))
	k.write("kadm5.acl", "")
}

func (k *KDC) write(name, content string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(content), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// sbin returns where Debian has the program: not in everybody's PATH.
func sbin(program string) string { return "/usr/sbin/" + program }

func (k *KDC) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, sbin(name), args...)
	c.Dir = k.dir
	c.Env = append(os.Environ(), "KRB5_CONFIG="+k.Conf, "KRB5_KDC_PROFILE="+filepath.Join(k.dir, "kdc.conf"))
	return c
}

func (k *KDC) run(name string, args ...string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), startTimeout)
	defer cancel()
	out, err := k.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("%s: %v: %s", name, err, out)
	}
	// kadmin.local exits with 0 though its query failed.
	if bytes.Contains(out, []byte("while ")) {
		k.t.Fatalf("%s %v: %s", name, args, out)
	}
}

func (k *KDC) start() error {
	k.process = k.command(context.Background(), "krb5kdc", "-n", "-r", k.Realm)
	var output bytes.Buffer
	k.process.Stdout, k.process.Stderr = &output, &output
	if err := k.process.Start(); err != nil {
		return err
	}
	k.exited = make(chan error, 1)
	go func(process *exec.Cmd, exited chan error) { exited <- process.Wait() }(k.process, k.exited)
	deadline := time.After(startTimeout)
	for {
		conn, err := net.DialTimeout("tcp", k.Address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-k.exited:
			k.process = nil
			return fmt.Errorf("krb5kdc ended at its start: %v: %s", err, output.String())
		case <-deadline:
			k.Stop()
			return fmt.Errorf("krb5kdc did not listen within %v", startTimeout)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop ends the KDC; its database stays until the test ends.
func (k *KDC) Stop() {
	if k.process == nil {
		return
	}
	_ = k.process.Process.Kill()
	<-k.exited
	k.process = nil
}

// Start starts a stopped KDC again, at the same address.
func (k *KDC) Start() {
	k.t.Helper()
	if err := k.start(); err != nil {
		k.t.Fatal(err)
	}
}

// AddPrincipal adds a principal ("nova/host") with a random key.
func (k *KDC) AddPrincipal(principal string) {
	k.t.Helper()
	k.run("kadmin.local", "-r", k.Realm, "-q", "addprinc -randkey "+principal)
}

// Keytab gives the principals new keys and writes them to a new file, whose path it returns. Keys written before are
// then no longer accepted by the KDC.
func (k *KDC) Keytab(principals ...string) string {
	k.t.Helper()
	path := filepath.Join(k.t.TempDir(), "keytab")
	k.run("kadmin.local", "-r", k.Realm, "-q", "ktadd -k "+path+" "+strings.Join(principals, " "))
	return path
}
