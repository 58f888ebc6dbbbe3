// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// stepCA is a step-ca that is on the machine already, to be measured with the
// same load: a fresh user key in each request, signed for one principal. It
// needs a JWK provisioner with SSH enabled, whose private key makes the
// one-time tokens (https://smallstep.com/docs/step-ca/provisioners/#jwk).
type stepCA struct {
	URL         string
	root        string
	provisioner string
	key         string
	pid         int
}

func (s *stepCA) flags(flags *flag.FlagSet) {
	flags.StringVar(&s.URL, "step-ca", "", "measure the step-ca at this https URL instead of Muster")
	flags.StringVar(&s.root, "step-root", "", "its root certificate, PEM")
	flags.StringVar(&s.provisioner, "step-provisioner", "", "the name of its JWK provisioner")
	flags.StringVar(&s.key, "step-key", "", "the provisioner's private key as a JWK (EC P-256), not encrypted")
	flags.IntVar(&s.pid, "step-pid", 0, "its process, for its CPU time")
}

// measure is a row.
func (s *stepCA) measure(ctx context.Context, b *bench) ([]measure, error) {
	address, secure, err := s.connect()
	if err != nil {
		return nil, err
	}
	key, kid, err := s.readKey()
	if err != nil {
		return nil, err
	}
	warm := max(b.requests/10, clients)
	keys, err := newKeys(warm + b.requests)
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, len(keys))
	for i, line := range keys {
		if requests[i], err = s.signRequest(address, line, key, kid); err != nil {
			return nil, err
		}
	}
	l := load{address: address, secure: secure, clients: clients, requests: requests[:warm], status: http.StatusCreated}
	if _, err := l.run(ctx, process(s.pid)); err != nil {
		return nil, err
	}
	l.requests = requests[warm:]
	t, err := l.run(ctx, process(s.pid))
	return loadMeasures("step-ca, user certificates", t, 0, 0), err
}

func (s *stepCA) connect() (address string, secure *tls.Config, err error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", nil, err
	}
	pem, err := os.ReadFile(s.root)
	if err != nil {
		return "", nil, fmt.Errorf("-step-root: %w", err)
	}
	secure = &tls.Config{ServerName: u.Hostname(), RootCAs: x509.NewCertPool(), NextProtos: []string{"http/1.1"}}
	if !secure.RootCAs.AppendCertsFromPEM(pem) {
		return "", nil, errors.New("-step-root: no PEM certificate")
	}
	return u.Host, secure, nil
}

// readKey reads the JWK (RFC 7517, RFC 7518 section 6.2) and returns its
// thumbprint (RFC 7638), which step-ca uses as key ID.
func (s *stepCA) readKey() (*ecdsa.PrivateKey, string, error) {
	text, err := os.ReadFile(s.key)
	if err != nil {
		return nil, "", fmt.Errorf("-step-key: %w", err)
	}
	var jwk struct{ Kty, Crv, X, Y, D, Kid string }
	if json.Unmarshal(text, &jwk) != nil || jwk.Kty != "EC" || jwk.Crv != "P-256" {
		return nil, "", errors.New("-step-key: not an EC P-256 JWK")
	}
	d, err := base64.RawURLEncoding.DecodeString(jwk.D)
	if err != nil {
		return nil, "", errors.New("-step-key: the JWK has no private part")
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		return nil, "", errors.New("-step-key: the private part is no P-256 key")
	}
	print := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, jwk.X, jwk.Y))
	if jwk.Kid == "" {
		jwk.Kid = base64.RawURLEncoding.EncodeToString(print[:])
	}
	return key, jwk.Kid, nil
}

// signRequest is POST /1.0/ssh/sign for a line of authorized_keys.
func (s *stepCA) signRequest(address, line string, key *ecdsa.PrivateKey, kid string) ([]byte, error) {
	const name = "bench"
	token, err := s.oneTimeToken(name, key, kid)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{
		"publicKey": strings.Fields(line)[1], "ott": token, "certType": "user", "keyID": name, "principals": []string{name},
	})
	return encodeRequest("POST", "/1.0/ssh/sign", address, nil, body), err
}

// oneTimeToken is a JWT signed with ES256 (RFC 7515, RFC 7518 section 3.4).
func (s *stepCA) oneTimeToken(name string, key *ecdsa.PrivateKey, kid string) (string, error) {
	now := time.Now()
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": kid})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": s.provisioner, "sub": name, "aud": strings.TrimRight(s.URL, "/") + "/1.0/ssh/sign", "jti": newID(),
		"iat": now.Unix(), "nbf": now.Add(-time.Second).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"step": map[string]any{"ssh": map[string]any{"certType": "user", "keyID": name, "principals": []string{name}}},
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, sig, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var both [64]byte
	for i, n := range []*big.Int{r, sig} {
		n.FillBytes(both[32*i : 32*(i+1)])
	}
	return signed + "." + encode(both[:]), nil
}
