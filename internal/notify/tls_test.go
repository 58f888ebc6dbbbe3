// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority certifies brokers and their clients.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), certificate: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	text, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, a.file, "CERTIFICATE", text)
	return a
}

// issue makes a certificate in PEM files: a broker's if it has a DNS name, else
// a client's.
func (a *authority) issue(t *testing.T, commonName string, dnsNames ...string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: commonName}, DNSNames: dnsNames,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if len(dnsNames) > 0 {
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	text, err := x509.CreateCertificate(rand.Reader, leaf, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	certFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", text)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	return certFile, keyFile
}

func writePEM(t *testing.T, path, kind string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: text}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certify makes an authority, its PEM file, and a broker's certificate for name.
func certify(t *testing.T, name string) (caFile string, broker tls.Certificate) {
	t.Helper()
	a := newAuthority(t)
	broker, err := tls.LoadX509KeyPair(a.issue(t, name, name))
	if err != nil {
		t.Fatal(err)
	}
	return a.file, broker
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTLS(t *testing.T) {
	right, broker := certify(t, "rabbit.example")
	wrong, _ := certify(t, "rabbit.example")
	for name, tt := range map[string]struct {
		rabbit Rabbit
		host   string
		good   bool
	}{
		"right":                          {Rabbit{CAFile: right, VerifyHostname: true}, "rabbit.example", true},
		"another name":                   {Rabbit{CAFile: right, VerifyHostname: true}, "other.example", false},
		"another name, not verified":     {Rabbit{CAFile: right}, "other.example", true},
		"another authority":              {Rabbit{CAFile: wrong, VerifyHostname: true}, "rabbit.example", false},
		"another authority, no name":     {Rabbit{CAFile: wrong}, "rabbit.example", false},
		"the system's authorities":       {Rabbit{VerifyHostname: true}, "rabbit.example", false},
		"system's authorities, no names": {Rabbit{}, "rabbit.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			settings, err := tt.rabbit.tls(tt.host)
			if err != nil {
				t.Fatal(err)
			}
			ours := handshaking(t, broker)
			if err := tls.Client(ours, settings).HandshakeContext(t.Context()); (err == nil) != tt.good {
				t.Errorf("handshake: %v", err)
			}
		})
	}
}

// handshaking returns a connection at whose other end a broker is about to
// introduce itself.
func handshaking(t *testing.T, broker tls.Certificate) net.Conn {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{broker}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if conn, err := listener.Accept(); err == nil {
			// What the broker thinks of it is not asked.
			_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			_ = conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = conn.Close(), listener.Close()
		<-served
	})
	return conn
}

func TestTLSFilesUnreadable(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Rabbit{{CAFile: empty}, {CAFile: empty + "x"}, {CertFile: empty, KeyFile: empty}} {
		if _, err := r.tls("h"); err == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
}
