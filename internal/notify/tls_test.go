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

// certify makes an authority, its PEM file, and a broker's certificate for name.
func certify(t *testing.T, name string) (caFile string, broker tls.Certificate) {
	t.Helper()
	caKey, brokerKey := newKey(t), newKey(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caText, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.CreateCertificate(rand.Reader, leaf, ca, brokerKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	err = os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caText}), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{text}, PrivateKey: brokerKey}
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
			ours, theirs := net.Pipe()
			defer ours.Close()
			go func() {
				defer theirs.Close()
				// What the broker thinks of it is not asked.
				_ = tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{broker}}).HandshakeContext(t.Context())
			}()
			if err := tls.Client(ours, settings).HandshakeContext(t.Context()); (err == nil) != tt.good {
				t.Errorf("handshake: %v", err)
			}
		})
	}
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
