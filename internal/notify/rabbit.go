// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"
)

const (
	// dialTimeout bounds everything until a connection is open.
	dialTimeout = 10 * time.Second
	// closeTimeout bounds saying good-bye.
	closeTimeout = 2 * time.Second
	// settled is how long a connection must have been good for the next pause
	// to be a short one again.
	settled = time.Minute
)

// override takes over what the URL says about options, as oslo.messaging does.
// Options that Muster does not have are left to the services.
func (r Rabbit) override(query map[string]string) (Rabbit, error) {
	flags := map[string]*bool{"ssl": &r.TLS, "ssl_enforce_hostname_verification": &r.VerifyHostname}
	files := map[string]*string{"ssl_ca_file": &r.CAFile, "ssl_cert_file": &r.CertFile, "ssl_key_file": &r.KeyFile}
	seconds := map[string]*time.Duration{
		"heartbeat_timeout_threshold": &r.Heartbeat, "rabbit_retry_interval": &r.RetryInterval,
		"rabbit_interval_max": &r.MaxInterval,
	}
	for name, text := range query {
		if flag, ok := flags[name]; ok {
			switch strings.ToLower(text) {
			case "1", "true", "yes", "on":
				*flag = true
			case "0", "false", "no", "off":
				*flag = false
			default:
				return r, transportError("?" + name + " is not true or false")
			}
		}
		if file, ok := files[name]; ok {
			*file = text
		}
		if duration, ok := seconds[name]; ok {
			number, err := strconv.ParseUint(text, 10, 16)
			if err != nil || number == 0 {
				return r, transportError("?" + name + " is not a number of seconds")
			}
			*duration = time.Duration(number) * time.Second
		}
	}
	return r, nil
}

// runRabbit connects to one host after the other, and to all of them again,
// until the context ends. Replicas begin with different hosts.
func (l *Listener) runRabbit(ctx context.Context) error {
	hosts := l.transport.Hosts
	pauses := l.pauses()
	next := rand.IntN(len(hosts))
	for tried := 0; ; {
		host := hosts[next%len(hosts)]
		began := l.cfg.Now()
		connected, err := l.session(ctx, host)
		if ctx.Err() != nil {
			return nil
		}
		next, tried = next+1, tried+1
		l.state.disconnected(host.Address(), err)
		if connected {
			l.metrics.disconnects.Inc()
			if l.cfg.Now().Sub(began) >= settled {
				// It was good: the others are tried at once, and all before a pause.
				tried = 1
				pauses.Reset()
			}
			l.cfg.Logger.Warn("The connection to RabbitMQ is lost; will connect again", "host", host.Address(), "error", err)
		} else {
			l.cfg.Logger.Warn("Cannot connect to RabbitMQ; will try again", "host", host.Address(), "error", l.cfg.Rabbit.explain(err))
		}
		if tried < len(hosts) {
			continue
		}
		tried = 0
		if !wait(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

// session receives from one host until the connection ends or the context does.
func (l *Listener) session(ctx context.Context, host Host) (connected bool, err error) {
	connection, err := l.connect(ctx, host)
	if err != nil {
		return false, err
	}
	l.metrics.connected.Set(1)
	defer l.metrics.connected.Set(0)
	l.state.connected()
	l.cfg.Logger.Info("Connected to RabbitMQ", "host", host.Address(), "vhost", l.transport.VirtualHost, "queues", l.queues)
	group, running := errgroup.WithContext(ctx)
	lost := connection.NotifyClose(make(chan *amqp091.Error, 1))
	group.Go(func() error {
		select {
		case <-running.Done():
			return running.Err()
		case err := <-lost:
			if err == nil {
				return amqp091.ErrClosed
			}
			return err
		}
	})
	for _, s := range l.subscriptions {
		group.Go(func() error { return l.follow(running, connection, s) })
	}
	// The consumers wait for the broker, not for the context.
	stop := context.AfterFunc(running, func() { l.close(connection) })
	defer stop()
	return true, group.Wait()
}

// close ends a connection that is open still; what comes of it does not matter.
func (l *Listener) close(connection *amqp091.Connection) {
	if err := connection.CloseDeadline(time.Now().Add(closeTimeout)); err != nil && !errors.Is(err, amqp091.ErrClosed) {
		l.cfg.Logger.Debug("The connection to RabbitMQ did not end well", "error", err)
	}
}

// connect opens a connection. The library is given no URL: it would quote it
// in errors.
func (l *Listener) connect(ctx context.Context, host Host) (*amqp091.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", host.Address())
	if err != nil {
		return nil, err
	}
	abort := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer abort()
	wire := socket
	if l.cfg.Rabbit.TLS {
		settings, err := l.cfg.Rabbit.tls(host.Name)
		if err != nil {
			return nil, errors.Join(err, socket.Close())
		}
		encrypted := tls.Client(socket, settings)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, socket.Close())
		}
		wire = encrypted
	}
	connection, err := amqp091.Open(wire, amqp091.Config{
		SASL:  l.cfg.Rabbit.logins(host),
		Vhost: l.transport.VirtualHost, Heartbeat: l.cfg.Rabbit.Heartbeat, Locale: "en_US",
		Properties: amqp091.Table{"product": "muster", "connection_name": l.cfg.Name},
	})
	if err != nil {
		_ = socket.Close() // it failed already
		return nil, err
	}
	return connection, nil
}

// logins are the ways to log in, the first that the broker takes.
func (r Rabbit) logins(host Host) []amqp091.Authentication {
	if r.External {
		return []amqp091.Authentication{&amqp091.ExternalAuth{}}
	}
	return []amqp091.Authentication{
		&amqp091.PlainAuth{Username: host.Username, Password: host.Password},
		&amqp091.AMQPlainAuth{Username: host.Username, Password: host.Password},
	}
}

// tls is made anew for each connection, so that renewed files are read.
func (r Rabbit) tls(name string) (*tls.Config, error) {
	settings := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	if r.CAFile != "" {
		text, err := os.ReadFile(r.CAFile)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ssl_ca_file %s holds no PEM certificate", r.CAFile)
		}
	}
	if r.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(r.CertFile, r.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("ssl_cert_file and ssl_key_file: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	if !r.VerifyHostname {
		// The chain is verified all the same, by hand.
		settings.InsecureSkipVerify = true
		settings.VerifyConnection = func(state tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: settings.RootCAs, Intermediates: x509.NewCertPool()}
			for _, certificate := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(certificate)
			}
			_, err := state.PeerCertificates[0].Verify(options)
			return err
		}
	}
	return settings, nil
}

// explain adds what to do to the errors that operators meet.
func (r Rabbit) explain(err error) error {
	var refused *amqp091.Error
	isCode := func(code int) bool { return errors.As(err, &refused) && refused.Code == code }
	switch {
	case r.External && (errors.Is(err, amqp091.ErrCredentials) || errors.Is(err, amqp091.ErrSASL)):
		return fmt.Errorf("%w; see that the broker has the plugin rabbitmq_auth_mechanism_ssl, EXTERNAL among its auth_mechanisms, "+
			"and a user of the name that it takes from ssl_cert_file (ssl_cert_login_from)", err)
	case errors.Is(err, amqp091.ErrCredentials), errors.Is(err, amqp091.ErrSASL):
		return fmt.Errorf("%w; see that user and password in transport_url are right", err)
	case errors.Is(err, amqp091.ErrVhost), isCode(amqp091.NotAllowed):
		return fmt.Errorf("%w; see that the virtual host in transport_url is there and the user may use it", err)
	case isCode(amqp091.AccessRefused):
		return fmt.Errorf("%w; rabbitmqctl set_permissions gives the user what is missing", err)
	case isCode(amqp091.FrameError) && !r.TLS:
		return fmt.Errorf("%w; see whether the broker speaks TLS at this port, and set ssl if so", err)
	case r.CertFile != "" && ended(err):
		// In TLS 1.3 it does so after the handshake, and why is often lost.
		return fmt.Errorf("%w; a broker that does not accept the certificate in ssl_cert_file ends the connection: its log says more", err)
	}
	return err
}

// ended tells whether the broker ended a connection without a word.
func ended(err error) bool {
	return slices.ContainsFunc([]error{amqp091.ErrClosed, io.EOF, syscall.ECONNRESET, syscall.EPIPE},
		func(end error) bool { return errors.Is(err, end) })
}
