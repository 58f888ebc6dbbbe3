// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Front is what stands before FreeIPA's framework on a real server: Apache with the rules of ipa-rewrite.conf and the settings of
// ipa.conf (FreeIPA 4.9 to 4.13), which logs callers in by Kerberos and acts for them by constrained delegation (S4U2Proxy), a KDC
// that grants that for forwardable tickets alone, and an LDAP server that takes nothing else. All are Debian's. Unlike there,
// Apache has its keytab itself, as in FreeIPA before 4.5 and on FreeBSD, and no gssproxy keeps it; and the framework is reached by
// FastCGI in the place of WSGI: it, too, hands the request's environment over to a process.
//
// It has a name, an address and the usual ports of its own, for which the tests need Isolate.
type Front struct {
	Host string // the server's name, in FrontDomain
	KDC  *KDC
	LDAP *LDAP

	t      testing.TB
	dir    string
	apache *program
}

// StartFront starts KDC and LDAP server. Principals get random keys. Apache follows with Serve.
func StartFront(t testing.TB, options KDCOptions) *Front {
	t.Helper()
	for _, path := range []string{sbin("apache2"), apacheModules + "mod_auth_gssapi.so", "/usr/lib/*/krb5/plugins/kdb/kldap.so"} {
		if _, err := newest(path); err != nil {
			Need(t, fmt.Errorf("%s, for FreeIPA's front: %w", filepath.Base(path), err))
		}
	}
	f := &Front{t: t}
	var address string
	f.Host, address = newFrontName(t)
	// The path of a socket is short, and Apache's user must come through.
	var err error
	if f.dir, err = os.MkdirTemp("", "muster-front-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(f.dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(f.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	f.LDAP = startLDAP(t, f.dir, f.Host, address, FrontDomain)
	web, directory := "HTTP/"+f.Host, "ldap/"+f.Host
	options.Realm, options.Principals, options.ldap = strings.ToUpper(FrontDomain), append(options.Principals, web, directory), f.LDAP
	f.KDC = StartKDC(t, options)
	writeFile(t, f.LDAP.krb5, f.read(f.KDC.Conf))
	f.place(f.KDC.Keytab(directory), f.LDAP.keytab)
	// FreeIPA has this in an entry of its own, which its KDC reads as this attribute.
	f.LDAP.Change(fmt.Sprintf("dn: krbPrincipalName=%[1]s@%[2]s,cn=%[2]s,cn=krbContainer,%[3]s\nchangetype: modify\n"+
		"add: krbAllowedToDelegateTo\nkrbAllowedToDelegateTo: %[4]s@%[2]s\n", web, f.KDC.Realm, f.LDAP.Suffix, directory))
	f.apache = f.configure(address)
	f.place(f.KDC.Keytab(web), f.path("http.keytab"))
	for _, path := range []string{f.path("http.keytab"), f.caches(), f.path("own"), f.path("krb5.conf")} {
		if err := os.Chown(path, f.apacheUser().uid, f.apacheUser().gid); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

const apacheModules = "/usr/lib/apache2/modules/"

func (f *Front) path(name string) string { return filepath.Join(f.dir, name) }

// caches is the folder with the credentials of the callers.
func (f *Front) caches() string { return f.path("ccaches") }

func (f *Front) read(path string) string {
	f.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

func (f *Front) place(from, to string) { f.t.Helper(); writeFile(f.t, to, f.read(from)) }

func (f *Front) apacheUser() *account {
	f.t.Helper()
	a, err := unprivileged("www-data")
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// configure writes Apache's configuration.
func (f *Front) configure(address string) *program {
	f.t.Helper()
	for _, name := range []string{"ccaches", "own", "errors"} {
		if err := os.Mkdir(f.path(name), 0o755); err != nil {
			f.t.Fatal(err)
		}
	}
	page := f.path("errors/unauthorized.html")
	if err := os.WriteFile(page, []byte("<html><title>Kerberos Authentication Failed</title></html>\n"), 0o644); err != nil {
		f.t.Fatal(err)
	}
	var conf strings.Builder
	for _, module := range []string{
		"mpm_event", "authn_core", "authz_core", "authz_user", "access_compat", "alias", "mime", "filter", "deflate", "headers", "rewrite",
		"session", "session_cookie", "socache_shmcb", "ssl", "auth_gssapi", "proxy", "proxy_fcgi",
	} {
		fmt.Fprintf(&conf, "LoadModule %s_module %smod_%s.so\n", module, apacheModules, module)
	}
	fmt.Fprintf(&conf, frontConf, f.dir, address, f.Host, strings.ReplaceAll(f.Host, ".", `\.`))
	writeFile(f.t, f.path("apache.conf"), conf.String())
	writeFile(f.t, f.path("mime.types"), "text/html html\n")
	return &program{
		t: f.t, log: f.path("apache.log"), dir: f.dir, path: sbin("apache2"),
		args: []string{"-D", "FOREGROUND", "-f", f.path("apache.conf")}, env: []string{"KRB5_CONFIG=" + f.path("krb5.conf"), "TMPDIR=" + f.path("own")},
		ready: func(ctx context.Context) error {
			connection, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(address, "443"))
			if err != nil {
				return err
			}
			return connection.Close()
		},
	}
}

// frontConf says in our words what ipa-rewrite.conf and ipa.conf say. Its values are: folder, address, name, name as a pattern.
const frontConf = `ServerRoot %[1]s
ServerName %[3]s
Listen %[2]s:80
Listen %[2]s:443
PidFile %[1]s/apache.pid
ErrorLog %[1]s/apache.log
LogLevel warn auth_gssapi:info
User www-data
Group www-data
TypesConfig %[1]s/mime.types
ServerLimit 2
StartServers 1
ThreadsPerChild 32
MaxRequestWorkers 64
MinSpareThreads 1
MaxSpareThreads 64
LimitRequestFieldSize 100000
KeepAlive On
KeepAliveTimeout 30
ProxyRequests Off
ProxyTimeout 120
AddOutputFilterByType DEFLATE text/html application/json
Alias /ipa/errors %[1]s/errors
ProxyPass /ipa/errors !
ProxyPass /ipa unix:%[1]s/framework|fcgi://framework/ipa

RewriteEngine on
RewriteCond %%{HTTP_HOST} !^%[4]s$ [NC]
RewriteRule ^/ipa/(.*) http://%[3]s/ipa/$1 [L,R=301]
RewriteCond %%{SERVER_PORT} !^443$
RewriteCond %%{REQUEST_URI} !^/ipa/(errors|config|crl)
RewriteRule ^/ipa/(.*) https://%[3]s/ipa/$1 [L,R=301,NC]

<Directory />
 Require all denied
</Directory>
<Directory %[1]s/errors>
 Satisfy Any
 Require all granted
</Directory>
<Location /ipa>
 AuthType GSSAPI
 AuthName "Kerberos Login"
 GssapiUseSessions On
 Session On
 SessionCookieName ipa_session path=/ipa;httponly;secure;
 SessionHeader IPASESSION
 GssapiSessionKey file:%[1]s/own/session.key
 GssapiCredStore keytab:%[1]s/http.keytab
 GssapiCredStore client_keytab:%[1]s/http.keytab
 GssapiCredStore ccache:FILE:%[1]s/own/http.ccache
 GssapiDelegCcacheDir %[1]s/ccaches
 GssapiDelegCcachePerms mode:0660
 GssapiDelegCcacheUnique On
 GssapiUseS4U2Proxy on
 GssapiAllowedMech krb5
 Require valid-user
 ErrorDocument 401 /ipa/errors/unauthorized.html
 Header always append X-Frame-Options DENY
 Header unset Set-Cookie
</Location>
<VirtualHost %[2]s:80>
 RewriteEngine on
 RewriteOptions Inherit
</VirtualHost>
<VirtualHost %[2]s:443>
 SSLEngine on
 SSLCertificateFile %[1]s/tls.pem
 RewriteEngine on
 RewriteOptions Inherit
</VirtualHost>
`

// Serve has Apache pass on what it lets in, and starts it with the certificate.
func (f *Front) Serve(certificate tls.Certificate, framework http.Handler) {
	f.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		f.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, raw := range certificate.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	writeFile(f.t, f.path("tls.pem"), string(text))
	listener, err := net.Listen("unix", f.path("framework"))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chmod(f.path("framework"), 0o666); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fcgi.Serve(listener, framework) }()
	f.t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			f.t.Error(err)
		}
	})
	f.StartWeb()
}

// StartWeb starts Apache, again after StopWeb.
func (f *Front) StartWeb() { f.t.Helper(); f.apache.start() }

// StopWeb ends Apache as a crash does.
func (f *Front) StopWeb() { f.t.Helper(); f.apache.stop() }

// Log returns the end of what Apache logged.
func (f *Front) Log() string { return string(f.apache.said()) }

// DropCaches removes the credentials of all callers, as a start of the machine does: they are in a file system in memory.
func (f *Front) DropCaches() {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.caches(), "*"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, path := range found {
		if err := os.Remove(path); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Caller returns whom Apache let in with this request, and the status that FreeIPA's framework answers: 200 if the credentials that
// Apache left for it open the directory in the caller's name. The log-in itself does not try them.
func (f *Front) Caller(r *http.Request) (principal string, status int) {
	environment := fcgi.ProcessEnv(r)
	principal = environment["REMOTE_USER"]
	cache, isFile := strings.CutPrefix(environment["KRB5CCNAME"], "FILE:")
	if principal == "" || !isFile {
		return "", http.StatusInternalServerError
	}
	if strings.HasSuffix(r.URL.Path, "/login_kerberos") {
		return principal, http.StatusOK
	}
	ctx, cancel := context.WithTimeout(r.Context(), startTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, "/usr/bin/ldapwhoami", "-Q", "-N", "-Y", "GSSAPI", "-H", f.LDAP.URL)
	c.Env = []string{"LDAPNOINIT=1", "KRB5_CONFIG=" + f.path("krb5.conf"), "KRB5CCNAME=FILE:" + cache}
	said, err := c.CombinedOutput()
	name, _, _ := strings.Cut(principal, "@")
	switch {
	case strings.Contains(string(said), "Can't contact LDAP server"):
		return "", http.StatusInternalServerError
	case err != nil || !strings.HasPrefix(strings.ToLower(string(said)), "dn:uid="+strings.ToLower(name)+","):
		f.t.Logf("the directory does not know %s: %s", principal, said)
		return "", http.StatusUnauthorized
	}
	return principal, http.StatusOK
}
