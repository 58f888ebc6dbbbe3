// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// Tags of LDAP messages (RFC 4511, 4.1 to 4.12).
const (
	tagInteger, tagOctets, tagEnumerated, tagSequence      = 0x02, 0x04, 0x0a, 0x30
	bindRequest, bindResponse, unbindRequest               = 0x60, 0x61, 0x42
	searchRequest, searchDone                              = 0x63, 0x65
	extendedRequest, extendedResponse, responseValue       = 0x77, 0x78, 0x8b
	simplePassword, requestName, requestValue              = 0x80, 0x80, 0x81
	success, invalidCredentials, unwillingToPerform   byte = 0, 49, 53
)

// startTLS is RFC 4511, 4.14.
const startTLS = "1.3.6.1.4.1.1466.20037"

// directory is as much of FreeIPA's LDAP server as joining needs.
type directory struct {
	tls   *tls.Config
	stop  func() // and wait for its connections
	mu    sync.Mutex
	binds []string // "name password"
}

// newDirectory starts the server that a machine knows as ipa.example.test.
// Its ports are LDAP's own: FreeIPA's programs know no other, and the test has
// a network of its own.
func newDirectory(t *testing.T, root string) *directory {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ipa.example.test"}, DNSNames: []string{"ipa.example.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	agenttest.Write(t, root, "/etc/ipa/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	agenttest.Write(t, root, "/etc/hosts", "127.0.0.1 localhost ipa.example.test\n")
	d := &directory{tls: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	var connections sync.WaitGroup
	var listeners []net.Listener
	d.stop = func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
		connections.Wait()
	}
	t.Cleanup(d.stop)
	for address, secure := range map[string]bool{"127.0.0.1:636": true, "127.0.0.1:389": false} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, listener)
		connections.Go(func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				if secure {
					connection = tls.Server(connection, d.tls)
				}
				connections.Go(func() { d.serve(connection) })
			}
		})
	}
	return d
}

func (d *directory) serve(connection net.Conn) {
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(3 * time.Minute))
	for {
		tag, message, err := readElement(connection)
		if err != nil || tag != tagSequence {
			return
		}
		rest := bytes.NewReader(message)
		_, id, _ := readElement(rest)
		operation, body, err := readElement(rest)
		if err != nil || operation == unbindRequest {
			return
		}
		answer := d.answer(operation, bytes.NewReader(body))
		_, _ = connection.Write(element(tagSequence, element(tagInteger, id), answer))
		if operation == extendedRequest && bytes.Contains(body, []byte(startTLS)) {
			connection = tls.Server(connection, d.tls)
		}
	}
}

func (d *directory) answer(operation byte, body io.Reader) []byte {
	switch operation {
	case bindRequest:
		_, _, _ = readElement(body) // the version
		_, name, _ := readElement(body)
		_, secret, _ := readElement(body)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.binds = append(d.binds, string(name)+" "+string(secret))
		if string(secret) != password {
			return element(bindResponse, result(invalidCredentials))
		}
		return element(bindResponse, result(success))
	case extendedRequest:
		_, name, _ := readElement(body)
		_, host, _ := readElement(body)
		if string(name) == startTLS {
			return element(extendedResponse, result(success))
		}
		if string(name) != "2.16.840.1.113730.3.8.10.3" {
			return element(extendedResponse, result(unwillingToPerform))
		}
		principal := append([]byte("host/"), append(host, "@EXAMPLE.TEST\x00"...)...)
		return element(extendedResponse, result(success), element(responseValue, principal))
	default:
		return element(searchDone, result(success))
	}
}

func result(code byte) []byte {
	return append(element(tagEnumerated, []byte{code}), append(element(tagOctets), element(tagOctets)...)...)
}

// readElement reads one element of BER with a definite length.
func readElement(r io.Reader) (tag byte, value []byte, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1])
	if length >= 0x80 {
		long := make([]byte, 8)
		count := int(length - 0x80)
		if count > 4 {
			return 0, nil, errors.New("too long")
		}
		if _, err := io.ReadFull(r, long[8-count:]); err != nil {
			return 0, nil, err
		}
		length = binary.BigEndian.Uint64(long)
	}
	if length > 1<<16 {
		return 0, nil, errors.New("too long")
	}
	value = make([]byte, length)
	_, err = io.ReadFull(r, value)
	return head[0], value, err
}

func element(tag byte, values ...[]byte) []byte {
	value := bytes.Join(values, nil)
	return append([]byte{tag, 0x82, byte(len(value) >> 8), byte(len(value))}, value...)
}

// TestRealGetkeytab: FreeIPA's own program takes the password from its standard
// input and binds with it. Its package would change how people log in to the
// machine, so that it is unpacked beside it, by scripts/services-install.sh.
func TestRealGetkeytab(t *testing.T) {
	root := agenttest.Machine(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	unpacked := filepath.Join(cache, "muster-test", "freeipa-client", "usr")
	if _, err := os.Stat(unpacked); err != nil {
		agenttest.Missing(t, "FreeIPA's client is not unpacked; run scripts/services-install.sh test: "+err.Error())
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", unpacked+"/.", filepath.Join(root, "usr")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := newDirectory(t, root)
	const name = "fqdn=web.example.test,cn=computers,cn=accounts,dc=example,dc=test"
	_, err = (files.Programs{Root: root}).Run(t.Context(), []byte(password+"\n"), "ipa-getkeytab", "-s", "ipa.example.test",
		"-p", "host/web.example.test@EXAMPLE.TEST", "-k", "/etc/krb5.keytab", "-D", name, "-W")
	if err == nil {
		t.Error("the directory has no keys to give")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.binds) == 0 || d.binds[0] != name+" "+password {
		t.Fatal(d.binds, err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/krb5.keytab")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
