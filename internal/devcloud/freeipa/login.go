// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/flags"
	krbservice "github.com/jcmturner/gokrb5/v8/service"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

const cookieName = "ipa_session"

// accepted is the SPNEGO answer "accept-completed, Kerberos" (RFC 4178, 4.2.2).
const accepted = "Negotiate oRQwEqADCgEAoQsGCSqGSIb3EgECAg=="

type session struct {
	principal string
	expires   time.Time
	// helpless: the KDC gives the web server nothing to act with for this caller, whose ticket was not forwardable.
	helpless bool
}

// EndSessions forgets all sessions, as a restart of a real server does: the next request with a cookie gets a 401.
func (s *Server) EndSessions() {
	s.sessionsMu.Lock()
	defer s.sessionsMu.Unlock()
	clear(s.sessions)
}

// open starts a session and sets its cookie. The session's own end is limited to what the server gives.
func (s *Server) open(w http.ResponseWriter, opened session) {
	raw := make([]byte, 24)
	if _, err := io.ReadFull(s.cfg.Random, raw); err != nil {
		writeErrorPage(w, http.StatusInternalServerError)
		return
	}
	token := "MagBearerToken=" + hex.EncodeToString(raw)
	now := s.cfg.Now()
	if limit := now.Add(s.cfg.SessionLife); opened.expires.IsZero() || opened.expires.After(limit) {
		opened.expires = limit
	}
	s.sessionsMu.Lock()
	defer s.sessionsMu.Unlock()
	for old, entry := range s.sessions {
		if !entry.expires.After(now) {
			delete(s.sessions, old)
		}
	}
	s.sessions[token] = opened
	w.Header().Set("Set-Cookie", cookieName+"="+token+";path=/ipa;httponly;secure;")
}

// authenticate returns the caller's principal, from the session cookie or a Negotiate header. If there is none it has
// answered 401.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) (string, bool) {
	if s.cfg.Caller != nil {
		principal, status := s.cfg.Caller(r)
		if status != http.StatusOK {
			writeErrorPage(w, status)
		}
		return principal, status == http.StatusOK
	}
	if cookie, err := r.Cookie(cookieName); err == nil {
		s.sessionsMu.Lock()
		entry, ok := s.sessions[cookie.Value]
		s.sessionsMu.Unlock()
		if ok && entry.expires.After(s.cfg.Now()) {
			if entry.helpless {
				writeErrorPage(w, http.StatusUnauthorized)
				return "", false
			}
			return entry.principal, true
		}
	}
	opened, ok := s.negotiate(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", "Negotiate")
		writeErrorPage(w, http.StatusUnauthorized)
		return "", false
	}
	s.open(w, opened)
	w.Header().Set("WWW-Authenticate", accepted)
	return opened.principal, true
}

// negotiate verifies the request's SPNEGO token (RFC 4559) and returns the session that it is good for.
func (s *Server) negotiate(r *http.Request) (opened session, ok bool) {
	encoded, found := strings.CutPrefix(r.Header.Get("Authorization"), "Negotiate ")
	if !found || s.cfg.Keytab == nil {
		return session{}, false
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return session{}, false
	}
	keys, err := s.cfg.Keytab()
	if err != nil {
		return session{}, false
	}
	// The Kerberos library can panic on a token that is no DER at all.
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var token spnego.SPNEGOToken
	if err := token.Unmarshal(raw); err != nil {
		return session{}, false
	}
	var ticket spnego.KRB5Token
	if err := ticket.Unmarshal(token.NegTokenInit.MechTokenBytes); err != nil || !ticket.IsAPReq() {
		return session{}, false
	}
	valid, who, err := krbservice.VerifyAPREQ(&ticket.APReq, krbservice.NewSettings(keys, krbservice.DecodePAC(false)))
	if err != nil || !valid {
		return session{}, false
	}
	return session{
		principal: who.UserName() + "@" + who.Realm(), expires: who.ValidUntil(),
		helpless: !types.IsFlagSet(&ticket.APReq.Ticket.DecryptedEncPart.Flags, flags.Forwardable),
	}, true
}

func (s *Server) serveKerberosLogin(w http.ResponseWriter, r *http.Request) {
	if !s.faultFor("login_kerberos").before(w, r) {
		return
	}
	if _, ok := s.authenticate(w, r); ok {
		w.WriteHeader(http.StatusOK)
	}
}

// servePasswordLogin answers the login form. Besides users it lets a host in with its one-time password: it stands for
// the LDAP bind with which ipa-join begins on a real server.
func (s *Server) servePasswordLogin(w http.ResponseWriter, r *http.Request) {
	if !s.faultFor("login_password").before(w, r) {
		return
	}
	if r.Method != http.MethodPost || !s.refererFits(r) {
		writeErrorPage(w, http.StatusBadRequest)
		return
	}
	user, _, _ := strings.Cut(r.PostFormValue("user"), "@")
	if !s.passwordFits(user, r.PostFormValue("password")) {
		w.Header().Set("X-IPA-Rejection-Reason", "invalid-password")
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "<html>\n<head>\n<title>401 Unauthorized</title>\n</head>\n<body>\n<h1>Invalid Authentication</h1>\n"+
			"<p>\n<strong>kinit: Password incorrect while getting initial credentials\n</strong>\n</p>\n</body>\n</html>")
		return
	}
	s.open(w, session{principal: user + "@" + s.cfg.Realm})
	w.WriteHeader(http.StatusOK)
}

func (s *Server) passwordFits(user, password string) bool {
	want := s.cfg.Passwords[user]
	if fqdn, isHost := strings.CutPrefix(user, "host/"); isHost && want == "" {
		s.mu.Lock()
		if entry := s.dir.hosts[fqdn]; entry != nil {
			want = entry.otp
		}
		s.mu.Unlock()
	}
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
}

// refererFits checks the header that a real server demands against cross-site requests.
func (s *Server) refererFits(r *http.Request) bool {
	for _, name := range s.cfg.Names {
		if strings.HasPrefix(r.Referer(), "https://"+name+"/ipa") {
			return true
		}
	}
	return false
}
