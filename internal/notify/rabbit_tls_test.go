// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/test/services"
)

// tlsSite is a broker that speaks TLS, and who certified it.
type tlsSite struct {
	*site
	ca *authority
}

// newTLSSite starts a broker, whose certificate is for the name localhost.
func newTLSSite(t *testing.T) *tlsSite {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs a broker")
	}
	ca := newAuthority(t)
	certFile, keyFile := ca.issue(t, "broker", "localhost")
	server, err := services.StartRabbitMQWithTLS(t.Context(), services.RabbitTLS{CertFile: certFile, KeyFile: keyFile, CAFile: ca.file})
	services.Need(t, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &tlsSite{newSite(t, server), ca}
}

// address is the broker's, under a name that it may or may not be certified for.
func (s *tlsSite) address(name string) string {
	return strings.Replace(s.broker.TLSAddress(), "127.0.0.1", name, 1)
}

// nobody is a transport_url that names no user.
func (s *tlsSite) nobody() string {
	return "rabbit://" + s.address("localhost") + "/" + url.PathEscape(s.vhost)
}

// withPassword is one that names a user, with the password.
func (s *tlsSite) withPassword(name string) string {
	return strings.Replace(s.broker.URL(s.vhost), s.broker.Address(), s.address(name), 1)
}

// try is what `muster config check` does.
func (s *tlsSite) try(transport string, rabbit Rabbit) error {
	s.t.Helper()
	_, err := Check(s.t.Context(), Config{TransportURL: transport, Topics: []string{"muster_notifications"}, Rabbit: rabbit})
	return err
}

// TestLoginByCertificate: the certificate alone says who Muster is, and a user
// and password in transport_url do not count.
func TestLoginByCertificate(t *testing.T) {
	s := newTLSSite(t)
	certFile, keyFile := s.ca.issue(t, s.broker.User())
	good := Rabbit{External: true, TLS: true, VerifyHostname: true, CAFile: s.ca.file, CertFile: certFile, KeyFile: keyFile}
	change := func(to func(*Rabbit)) Rabbit {
		changed := good
		to(&changed)
		return changed
	}
	unknown := change(func(r *Rabbit) { r.CertFile, r.KeyFile = s.ca.issue(t, "somebody") })
	foreign := change(func(r *Rabbit) { r.CertFile, r.KeyFile = newAuthority(t).issue(t, s.broker.User()) })
	none := change(func(r *Rabbit) { r.CertFile, r.KeyFile = "", "" })
	plain := Rabbit{TLS: true, VerifyHostname: true, CAFile: s.ca.file}
	options := url.Values{"ssl": {"1"}, "ssl_ca_file": {good.CAFile}, "ssl_cert_file": {certFile}, "ssl_key_file": {keyFile}}
	for name, tt := range map[string]struct {
		transport string
		rabbit    Rabbit
		says      string // empty: it is let in
	}{
		"certificate":                   {s.nobody(), good, ""},
		"certificate, wrong password":   {strings.Replace(s.nobody(), "://", "://muster:wrong@", 1), good, ""},
		"options in the URL":            {s.nobody() + "?" + options.Encode(), Rabbit{External: true, VerifyHostname: true}, ""},
		"a user that is not there":      {s.nobody(), unknown, "rabbitmq_auth_mechanism_ssl"},
		"no certificate":                {s.nobody(), none, "rabbitmq_auth_mechanism_ssl"},
		"another authority's":           {s.nobody(), foreign, "certificate"},
		"password":                      {s.withPassword("localhost"), plain, ""},
		"wrong password":                {strings.Replace(s.nobody(), "://", "://muster:wrong@", 1), plain, "user and password"},
		"password beside a certificate": {s.withPassword("localhost"), change(func(r *Rabbit) { r.External = false }), ""},
		"another name":                  {s.withPassword("127.0.0.1"), plain, "127.0.0.1"},
		"another name, not verified":    {s.withPassword("127.0.0.1"), Rabbit{TLS: true, CAFile: s.ca.file}, ""},
		"broker of another authority":   {s.withPassword("localhost"), Rabbit{TLS: true, CAFile: newAuthority(t).file}, "unknown authority"},
		"no TLS":                        {s.withPassword("localhost"), Rabbit{}, "set ssl"},
		"EXTERNAL without TLS":          {s.broker.URL(s.vhost), Rabbit{External: true}, "rabbitmq_auth_mechanism_ssl"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.try(tt.transport, tt.rabbit)
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it says %v, want %q", err, tt.says)
			}
		})
	}
}

// TestCertificateRenewed: the files are read at each connection, so that a
// certificate is renewed without a restart.
func TestCertificateRenewed(t *testing.T) {
	s := newTLSSite(t)
	c := s.channel()
	s.declare(c, kind{})
	certFile, keyFile := s.ca.issue(t, "somebody")
	s.listen(func(cfg *Config) {
		cfg.TransportURL = s.nobody()
		cfg.Rabbit.External, cfg.Rabbit.TLS, cfg.Rabbit.VerifyHostname = true, true, true
		cfg.Rabbit.CAFile, cfg.Rabbit.CertFile, cfg.Rabbit.KeyFile = s.ca.file, certFile, keyFile
	})
	s.until("refused", func() bool { return strings.Contains(s.log.String(), "Cannot connect to RabbitMQ") })
	newCert, newKey := s.ca.issue(t, s.broker.User())
	if err := errors.Join(os.Rename(newKey, keyFile), os.Rename(newCert, certFile)); err != nil {
		t.Fatal(err)
	}
	s.send(c, userDeleted(1))
	s.expect(user(1))
}
