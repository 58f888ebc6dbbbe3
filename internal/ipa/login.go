// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

const cookieName = "ipa_session"

// Kerberos logs in with a keytab (SPNEGO, RFC 4559). The keytab is read anew at each log-in, so that one that was
// replaced serves at once.
type Kerberos struct {
	// Principal is "nova/HOST" or "nova/HOST@REALM"; empty is the first one in the keytab, which tells the realm too.
	Principal string
	Keytab    string // path of the file
	// Config is what ReadKrb5Conf returned, or one made for the purpose.
	Config *config.Config
}

func (k *Kerberos) check() error {
	switch {
	case k.Keytab == "":
		return errors.New("log-in to FreeIPA by Kerberos: the keytab's path is missing")
	case k.Config == nil:
		return errors.New("log-in to FreeIPA by Kerberos: the Kerberos configuration (krb5.conf) is missing")
	}
	return nil
}

// login opens a session.
func (s *server) login(ctx context.Context) (*session, error) {
	if s.client.cfg.Kerberos != nil {
		return s.kerberosLogin(ctx, s.client.cfg.Kerberos)
	}
	return s.passwordLogin(ctx, s.client.cfg.Password)
}

func (s *server) passwordLogin(ctx context.Context, p *Password) (*session, error) {
	form := url.Values{"user": {p.User}, "password": {string(p.Password)}}
	r, err := s.request(ctx, "/ipa/session/login_password", "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil {
		return nil, &LoginError{Server: s.name, Err: err}
	}
	r.Header.Set("Accept", "text/plain")
	cookie, err := s.open(r)
	if errors.Is(err, errUnauthorized) {
		return nil, &LoginError{Server: s.name, Rejected: true, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &session{cookie: cookie}, nil
}

func (s *server) kerberosLogin(ctx context.Context, k *Kerberos) (*session, error) {
	type proof struct {
		token []byte
		life  time.Duration
		err   error
	}
	// The Kerberos library knows no context. It gives up by itself after 5 s for each KDC and protocol.
	proofs := make(chan proof, 1)
	go func() {
		token, life, err := k.token("HTTP/"+s.name, s.client.cfg.Now())
		proofs <- proof{token, life, err}
	}()
	var got proof
	select {
	case got = <-proofs:
	case <-ctx.Done():
		return nil, &LoginError{Server: s.name, Err: fmt.Errorf("no ticket from the KDC: %w", ctx.Err())}
	}
	if got.err != nil {
		return nil, &LoginError{Server: s.name, Rejected: errors.Is(got.err, errCredentials), Err: got.err}
	}
	r, err := s.request(ctx, "/ipa/session/login_kerberos", "", nil)
	if err != nil {
		return nil, &LoginError{Server: s.name, Err: err}
	}
	r.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(got.token))
	cookie, err := s.open(r)
	if errors.Is(err, errUnauthorized) {
		// The KDC knows us, so this server is at fault, and another may do.
		err = fmt.Errorf("%w: check the keytab of HTTP/%s there, and both clocks", err, s.name)
		return nil, &LoginError{Server: s.name, Err: err}
	}
	if err != nil {
		return nil, err
	}
	// The session ends with its ticket. A fifth of the ticket's life is left for a KDC that is away for a moment.
	return &session{cookie: cookie, renew: s.client.cfg.Now().Add(got.life - got.life/5)}, nil
}

// open sends a log-in and returns the session cookie's value. Its error holds errUnauthorized after a 401.
func (s *server) open(r *http.Request) (string, error) {
	response, err := s.client.http.Do(r)
	if err != nil {
		return "", &LoginError{Server: s.name, Err: withoutURL(err)}
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		reason := response.Header.Get("X-IPA-Rejection-Reason")
		return "", fmt.Errorf("%w %.60q", errUnauthorized, reason)
	case response.StatusCode != http.StatusOK:
		return "", &LoginError{Server: s.name, Err: s.unexpected(response)}
	}
	for _, cookie := range response.Cookies() {
		if cookie.Name == cookieName && cookie.Value != "" && len(cookie.Value) <= 8<<10 {
			return cookie.Value, nil
		}
	}
	return "", &LoginError{Server: s.name, Err: fmt.Errorf("%w: no session cookie", ErrBadAnswer)}
}

// errCredentials tells that the keytab can't be used, or that the KDC refuses what is in it.
var errCredentials = errors.New("credentials refused")

// token gets a ticket for the service and returns the SPNEGO token for it, with the time for which the ticket is good.
func (k *Kerberos) token(spn string, now time.Time) (token []byte, life time.Duration, err error) {
	// The Kerberos library can panic on a keytab, or an answer, that is cut short.
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%w: the keytab %s, or an answer of the KDC, is malformed", errCredentials, k.Keytab)
		}
	}()
	keys, err := keytab.Load(k.Keytab)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: keytab %s: is it there, a keytab, and may Muster read it?", errCredentials, k.Keytab)
	}
	principal, realm, err := k.identity(keys)
	if err != nil {
		return nil, 0, err
	}
	caller := client.NewWithKeytab(principal, realm, keys, k.forwardable())
	defer caller.Destroy()
	granting, err := grantingTicket(caller)
	if err != nil {
		return nil, 0, err
	}
	name := types.NewPrincipalName(nametype.KRB_NT_SRV_INST, spn)
	_, granted, err := caller.TGSREQGenerateAndExchange(name, realm, granting.Ticket, granting.DecryptedEncPart.Key, false)
	if err != nil {
		if kdcSaid(err, errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN) {
			err = fmt.Errorf("the KDC knows no %s: is that the name that the server itself has? %w", spn, err)
		}
		return nil, 0, err
	}
	init, err := spnego.NewNegTokenInitKRB5(caller, granted.Ticket, granted.DecryptedEncPart.Key)
	if err != nil {
		return nil, 0, err
	}
	whole := spnego.SPNEGOToken{Init: true, NegTokenInit: init}
	token, err = whole.Marshal()
	part := granted.DecryptedEncPart
	full := part.EndTime.Sub(part.AuthTime)
	// By our clock, unless that is far from the KDC's.
	return token, min(max(part.EndTime.Sub(now), full/2), full), err
}

// forwardable returns the Kerberos configuration with what FreeIPA needs, whatever the machine's file says: its web server acts
// for the caller by constrained delegation (S4U2Proxy), which the KDC grants for a forwardable ticket alone. With another one
// the log-in succeeds, and every call after it gets a 401.
func (k *Kerberos) forwardable() *config.Config {
	own := *k.Config
	own.LibDefaults.Forwardable = true
	return &own
}

// identity finds the principal among those that the keytab has keys for.
func (k *Kerberos) identity(keys *keytab.Keytab) (principal, realm string, err error) {
	wanted, wantedRealm, _ := strings.Cut(k.Principal, "@")
	for _, e := range keys.Entries {
		name := strings.Join(e.Principal.Components, "/")
		if (wanted == "" || name == wanted) && (wantedRealm == "" || e.Principal.Realm == wantedRealm) {
			return name, e.Principal.Realm, nil
		}
	}
	return "", "", fmt.Errorf("%w: the keytab %s has no keys of %q", errCredentials, k.Keytab, k.Principal)
}

// grantingTicket gets the ticket with which others are got (RFC 4120, 3.1).
func grantingTicket(caller *client.Client) (messages.ASRep, error) {
	realm := caller.Credentials.Domain()
	request, err := messages.NewASReqForTGT(realm, caller.Config, caller.Credentials.CName())
	if err != nil {
		return messages.ASRep{}, err
	}
	answer, err := caller.ASExchange(realm, request, 0)
	return answer, refusal(err)
}

// refusal says what became of a request for the first ticket: the KDC refused the credentials, or nothing is known about them.
func refusal(err error) error {
	var own krberror.Krberror
	switch {
	case err == nil, errors.As(err, &own) && own.RootCause == krberror.NetworkingError:
		return err
	case kdcSaid(err, errorcode.KDC_ERR_SVC_UNAVAILABLE), kdcSaid(err, errorcode.KRB_ERR_GENERIC):
		// This is what a KDC answers whose database is away. FreeIPA's has it in the directory.
		return fmt.Errorf("the KDC is in trouble: %w", err)
	case kdcSaid(err, errorcode.KRB_AP_ERR_SKEW), strings.Contains(err.Error(), "clock skew with KDC"):
		return fmt.Errorf("the clocks of this machine and of the KDC are too far apart: %w", err)
	}
	return fmt.Errorf("%w: %w", errCredentials, err)
}

// kdcSaid reports whether the KDC answered with that code (RFC 4120, 7.5.9), of which the library leaves nothing but text.
func kdcSaid(err error, code int32) bool {
	return strings.Contains(err.Error(), "KRB Error: "+errorcode.Lookup(code))
}
