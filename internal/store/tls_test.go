// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// issuer signs certificates of a test.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
}

func newIssuer(t *testing.T, name string) *issuer {
	i := &issuer{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, i.key.Public(), i.key))(t)
	i.cert = must(x509.ParseCertificate(der))(t)
	i.file = writePEM(t, name+".pem", "CERTIFICATE", der)
	return i
}

// issue returns the files of a certificate and its key.
func (i *issuer) issue(t *testing.T, name string, hosts ...string) (cert, key string) {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: hosts,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der := must(x509.CreateCertificate(rand.Reader, template, i.cert, private.Public(), i.key))(t)
	return writePEM(t, name+".pem", "CERTIFICATE", der),
		writePEM(t, name+".key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(private))(t))
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// speakTLS returns the port at which a PostgreSQL server seems to have TLS.
func speakTLS(t *testing.T, server string, config *tls.Config) string {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go encrypt(client, server, config)
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// encrypt says yes to an SSLRequest, and passes on what comes by TLS
// (https://www.postgresql.org/docs/current/protocol-flow.html, "SSL Session Encryption").
func encrypt(client net.Conn, server string, config *tls.Config) {
	defer client.Close()
	if _, err := io.ReadFull(client, make([]byte, 8)); err != nil {
		return
	}
	if _, err := client.Write([]byte("S")); err != nil {
		return
	}
	conn, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer conn.Close()
	secure := tls.Server(client, config)
	go func() {
		_, _ = io.Copy(secure, conn) // it ends with the connection
		client.Close()
	}()
	_, _ = io.Copy(conn, secure)
}

// TestTLSModes: what libpq's sslmode promises is kept.
func TestTLSModes(t *testing.T) {
	loc := must(parseURL(databases.PostgreSQL(t)))(t)
	ours, theirs := newIssuer(t, "ours"), newIssuer(t, "theirs")
	pair := must(tls.LoadX509KeyPair(ours.issue(t, "server", "localhost")))(t)
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)
	address := net.JoinHostPort(loc.host, loc.port)
	port := speakTLS(t, address, &tls.Config{Certificates: []tls.Certificate{pair}})
	strict := speakTLS(t, address, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: tls.VersionTLS12})
	cert, key := ours.issue(t, "client")
	for _, test := range []struct {
		host, port, options string
		good                bool
	}{
		{"localhost", port, "", true},
		{"localhost", port, "?sslmode=require", true},
		{"127.0.0.1", port, "?sslmode=require&sslrootcert=" + ours.file, true},
		{"127.0.0.1", port, "?sslmode=require&sslrootcert=" + theirs.file, false},
		{"localhost", port, "?sslmode=verify-full&sslrootcert=" + ours.file, true},
		{"127.0.0.1", port, "?sslmode=verify-full&sslrootcert=" + ours.file, false},
		{"localhost", port, "?sslmode=verify-full&sslrootcert=" + theirs.file, false},
		{"localhost", port, "?sslmode=verify-full", false},
		{"127.0.0.1", port, "?sslmode=verify-ca&sslrootcert=" + ours.file, true},
		{"127.0.0.1", port, "?sslmode=verify-ca&sslrootcert=" + theirs.file, false},
		{"localhost", port, "?sslmode=verify-ca", false},
		{"localhost", strict, "?sslmode=require&sslcert=" + cert + "&sslkey=" + key, true},
		{"localhost", strict, "?sslmode=require", false},
	} {
		url := "postgresql://" + loc.user + "@" + net.JoinHostPort(test.host, test.port) + "/" + loc.database + test.options
		s, err := Open(t.Context(), Config{URL: url})
		if err == nil {
			err = s.Close()
		}
		if (err == nil) != test.good || !test.good && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v, want good: %v", url, err, test.good)
		}
	}
}
