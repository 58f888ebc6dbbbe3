// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ErrTransportURL is what ParseTransportURL returns, wrapped. The text never
// quotes the URL, which holds a password.
var ErrTransportURL = errors.New("transport_url cannot be read")

const defaultPort = 5672

// maxHosts bounds the nodes of a cluster.
const maxHosts = 100

// TransportURL is a transport_url of oslo.messaging:
//
//	rabbit://USER:PASSWORD@HOST:PORT,USER:PASSWORD@HOST:PORT/VIRTUAL_HOST?OPTION=VALUE
//
// or memory:// for the transport inside the process.
// https://docs.openstack.org/oslo.messaging/latest/reference/transport.html
type TransportURL struct {
	Transport   string // "rabbit" or "memory"
	Hosts       []Host // of rabbit: one at least
	VirtualHost string // decoded; "/" if none is named
	// Query holds options of [oslo_messaging_rabbit] that the URL overrides, as
	// text; a name that is there twice has its values joined by commas.
	Query map[string]string
}

// Host is a broker, with the login there.
type Host struct {
	Name     string // or address, without brackets
	Port     int
	Username string
	Password string
}

// Address is host:port.
func (h Host) Address() string { return net.JoinHostPort(h.Name, strconv.Itoa(h.Port)) }

// ParseTransportURL reads a URL as oslo.messaging does: the names kombu and
// amqp stand for rabbit too; user, password and virtual host are
// percent-encoded; a host without a port is at 5672, and one without a login is
// logged in to as guest.
func ParseTransportURL(text string) (TransportURL, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return TransportURL{}, transportError("want rabbit://USER:PASSWORD@HOST:5672/VHOST")
	}
	t := TransportURL{VirtualHost: "/"}
	switch strings.ToLower(scheme) {
	case "rabbit", "kombu", "amqp":
		t.Transport = "rabbit"
	case "memory":
		t.Transport = "memory"
		return t, nil
	default:
		return TransportURL{}, transportError("Muster speaks rabbit:// only")
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	location, path, hasPath := strings.Cut(rest, "/")
	if err := t.readQuery(query); err != nil {
		return TransportURL{}, err
	}
	if hasPath && path != "" {
		var err error
		if t.VirtualHost, err = url.PathUnescape(path); err != nil {
			return TransportURL{}, transportError("the virtual host has a wrong %-escape; write % as %25")
		}
	}
	for part := range strings.SplitSeq(location, ",") {
		if part == "" {
			continue
		}
		if len(t.Hosts) == maxHosts {
			return TransportURL{}, transportError("it names too many hosts")
		}
		host, err := parseHost(part)
		if err != nil {
			return TransportURL{}, err
		}
		t.Hosts = append(t.Hosts, host)
	}
	if len(t.Hosts) == 0 {
		t.Hosts = []Host{{Name: "localhost", Port: defaultPort, Username: "guest", Password: "guest"}}
	}
	return t, nil
}

func transportError(reason string) error { return fmt.Errorf("%w: %s", ErrTransportURL, reason) }

func (t *TransportURL) readQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return transportError("what follows the question mark is not OPTION=VALUE")
	}
	t.Query = map[string]string{}
	for name, all := range values {
		if text := strings.Join(all, ","); text != "" {
			t.Query[name] = text
		}
	}
	return nil
}

func parseHost(text string) (Host, error) {
	host := Host{Port: defaultPort, Username: "guest", Password: "guest"}
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		user, password, _ := strings.Cut(text[:at], ":")
		var userErr, passwordErr error
		host.Username, userErr = url.PathUnescape(user)
		host.Password, passwordErr = url.PathUnescape(password)
		if userErr != nil || passwordErr != nil {
			return Host{}, transportError("a user or password has a wrong %-escape; write % as %25, @ as %40, / as %2F")
		}
		if host.Username == "" && host.Password == "" {
			host.Username, host.Password = "guest", "guest"
		}
		text = text[at+1:]
	}
	name, port, hasPort := strings.Cut(text, ":")
	if strings.HasPrefix(text, "[") {
		inside, behind, closed := strings.Cut(text[1:], "]")
		if !closed {
			return Host{}, transportError("a [ of an IPv6 address is not closed")
		}
		name = inside
		_, port, hasPort = strings.Cut(behind, ":")
	}
	if name == "" {
		name = "localhost"
	}
	host.Name = name
	if hasPort && port != "" {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return Host{}, transportError("a port is not a number from 1 to 65535; write : in a password as %3A")
		}
		host.Port = int(number)
	}
	return host, nil
}
