// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"gopkg.in/ini.v1"
)

// Machine names the files by which an enrolled machine knows its FreeIPA.
type Machine struct {
	DefaultConf string // /etc/ipa/default.conf
	Krb5Conf    string // /etc/krb5.conf
	CA          string // /etc/ipa/ca.crt
}

// EnrolledMachine names the files where ipa-client-install puts them.
func EnrolledMachine() Machine {
	return Machine{DefaultConf: "/etc/ipa/default.conf", Krb5Conf: "/etc/krb5.conf", CA: "/etc/ipa/ca.crt"}
}

// DefaultConf is what a machine's default.conf says. Fields are empty where it says nothing.
type DefaultConf struct {
	Domain string
	Realm  string
	Server string // host name of the server that the machine was enrolled with
	Host   string // the machine's own FQDN
	BaseDN string
}

// ReadDefaultConf reads a default.conf (default.conf(5) of FreeIPA). The server comes from "server", else from the
// host of "jsonrpc_uri" or "xmlrpc_uri".
func ReadDefaultConf(path string) (DefaultConf, error) {
	raw, err := readLimited(path)
	if err != nil {
		return DefaultConf{}, fmt.Errorf("read FreeIPA client configuration: %w", err)
	}
	conf, err := parseDefaultConf(raw)
	if err != nil {
		return DefaultConf{}, fmt.Errorf("%s: %w", path, err)
	}
	return conf, nil
}

func parseDefaultConf(raw []byte) (DefaultConf, error) {
	file, err := ini.LoadSources(ini.LoadOptions{
		IgnoreInlineComment: true, SkipUnrecognizableLines: true, Insensitive: true, IgnoreContinuation: true,
	}, raw)
	if err != nil {
		return DefaultConf{}, errors.New("not an INI file with a section [global]")
	}
	global := file.Section("global")
	value := func(key string) string { return strings.TrimSpace(global.Key(key).Value()) }
	conf := DefaultConf{
		Domain: strings.ToLower(value("domain")), Realm: value("realm"), Server: strings.ToLower(value("server")),
		Host: strings.ToLower(value("host")), BaseDN: value("basedn"),
	}
	for _, key := range []string{"jsonrpc_uri", "xmlrpc_uri"} {
		if conf.Server != "" {
			break
		}
		if address, err := url.Parse(value(key)); err == nil {
			conf.Server = strings.ToLower(address.Hostname())
		}
	}
	return conf, nil
}

// Complete fills in, from the machine's files, what cfg leaves open: servers, CA and Kerberos configuration. What cfg
// says is never changed, and no file is read for it. A file that is not there leaves its part open; New then says what is
// missing. A file that can't be understood is an error.
func (m Machine) Complete(cfg Config) (Config, error) {
	if len(cfg.Servers) == 0 && cfg.Domain == "" && cfg.First == "" {
		conf, err := ReadDefaultConf(m.DefaultConf)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cfg, err
		}
		cfg.Domain, cfg.First = conf.Domain, conf.Server
	}
	if cfg.RootCAs == nil {
		pool, err := ReadCA(m.CA)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cfg, err
		}
		cfg.RootCAs = pool
	}
	if cfg.Kerberos == nil || cfg.Kerberos.Config != nil {
		return cfg, nil
	}
	krb5, err := ReadKrb5Conf(m.Krb5Conf)
	if errors.Is(err, fs.ErrNotExist) {
		krb5, err = NewKrb5Conf(""), nil
	}
	kerberos := *cfg.Kerberos
	kerberos.Config = krb5
	cfg.Kerberos = &kerberos
	return cfg, err
}

// ReadCA reads the certificates of a PEM file: FreeIPA's ca.crt may hold several.
func ReadCA(path string) (*x509.CertPool, error) {
	raw, err := readLimited(path)
	if err != nil {
		return nil, fmt.Errorf("read FreeIPA's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s: no certificate in PEM form in it", path)
	}
	return pool, nil
}
