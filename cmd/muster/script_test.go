// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	_ "modernc.org/sqlite"

	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/uuid"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"muster": main}) }

// TestScripts runs the program as people do. See testdata; besides
// testscript's own commands there are:
//
//	exits CODE PROGRAM ARG...   run a program, which must end with that code
//	configure [freeipa]         write muster.conf and what it needs, and start the cloud that it names, with a FreeIPA if wanted
//	boot NAME                   boot an instance in project demo that asks for enrolment, and set $INSTANCE
//	hosttoken                   make the token of a new instance in project admin, and set $INSTANCE and $TOKEN
//	reports REASON              let $INSTANCE's agent report that it could not join FreeIPA
//	foreign FQDN                make an entry for a host in FreeIPA
//	[!] allowed PERMISSION      give it to Muster in FreeIPA, or take it away
//	login USER PROJECT          set the OS_* variables
//	service                     put the running server into the cloud's catalogue, and set $MUSTER and $ADDRESS
//	notified STATE              wait until the server has told systemd that
//	signal NAME                 send a signal to what runs in the background
//	newer FILE                  make a database one of a future version
//	certificate NAME            write tls.crt and tls.key for a name
//	serves NAME                 see that $MUSTER shows the certificate of that name
//	certify FILE                get a certificate for a new key, whose public half goes to the file; set $SERIAL, $KEY_ID and $GENERATION
//	get PATH STATUS             see that $MUSTER answers with that status
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true, Setup: setUp,
		Deadline: time.Now().Add(3 * patience), // a server that does not stop is killed
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "configure": configure, "login": login, "service": service, "notified": notified,
			"boot": boot, "hosttoken": hostToken, "reports": reports, "foreign": foreign, "allowed": allowed, "signal": signalAll, "newer": newer, "certificate": certificate, "serves": serves, "certify": certify, "get": get,
		},
	})
}

// patience bounds whatever a script waits for.
const patience = 3 * time.Minute

// peers are those that a script's programs talk to.
type peers struct {
	systemd *net.UnixConn
	cloud   *devcloud.Cloud // since configure
}

type peersKey struct{}

func peersOf(ts *testscript.TestScript) *peers { return ts.Value(peersKey{}).(*peers) }

// setUp gives the script a systemd to talk to.
func setUp(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	env.Defer(func() { socket.Close() })
	env.Values[peersKey{}] = &peers{systemd: socket}
	env.Setenv("NOTIFY_SOCKET", path)
	return nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// ipaUser is who Muster is in FreeIPA.
const ipaUser = "nova/muster.example.test"

func configure(ts *testscript.TestScript, _ bool, args []string) {
	var cfg devcloud.Config
	if slices.Equal(args, []string{"freeipa"}) {
		cfg.FreeIPA = &freeipa.Config{Domain: "example.test", Passwords: map[string]string{ipaUser: "secret"}}
	}
	cloud, err := devcloud.New(cfg)
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cloud.Run(ctx) }()
	ts.Defer(func() {
		stop()
		if err := <-done; err != nil {
			ts.Logf("devcloud: %v", err)
		}
	})
	peersOf(ts).cloud = cloud
	text := fmt.Sprintf(`[DEFAULT]
log_file = server.log
shutdown_timeout = 60s
[database]
connection = sqlite:///%s
max_retries = 1
retry_interval = 1
[custody]
master_key_file = master.key
[converge]
enabled = false

[keystone_authtoken]
auth_url = %s
username = muster
user_domain_name = Default
project_name = service
project_domain_name = Default
password = %s
[vendordata]
api_endpoint = http://127.0.0.1:18322
[listen:main]
address = 127.0.0.1:0
`, ts.MkAbs("muster.db"), cloud.AuthURL(), cloud.Identity.Password("muster"))
	if cloud.FreeIPA != nil {
		ts.Check(cloud.FreeIPA.GrantHostManagement(ipaUser))
		ts.Check(os.WriteFile(ts.MkAbs("ipa-ca.crt"), cloud.FreeIPA.CA(), 0o600))
		text += fmt.Sprintf(`[ipa]
servers = %s
domain = example.test
username = %s
password = secret
cafile = ipa-ca.crt
client_conf =
[enroll]
enabled = true
`, cloud.FreeIPAAddress(), ipaUser)
	}
	ts.Check(os.WriteFile(ts.MkAbs("muster.conf"), []byte(text), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("master.key"), []byte(custody.NewMasterKey()+"\n"), 0o600))
	ts.Setenv("MUSTER_CONFIG", ts.MkAbs("muster.conf"))
}

func boot(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: boot NAME")
	}
	cloud := peersOf(ts).cloud
	ts.Check(cloud.Compute.SetVendordataTargets("join@" + ts.Getenv("MUSTER") + "/v1/"))
	id, err := cloud.Compute.Boot(context.Background(), compute.Server{
		Name: args[0], ProjectID: cloud.Identity.ProjectID("demo"), UserID: cloud.Identity.UserID("demo"),
		Metadata: map[string]string{"ipa_enroll": "true"},
	})
	ts.Check(err)
	ts.Setenv("INSTANCE", id)
}

func foreign(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: foreign FQDN")
	}
	ts.Check(peersOf(ts).cloud.FreeIPA.AddHost(args[0], ""))
}

func allowed(ts *testscript.TestScript, negated bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] allowed PERMISSION")
	}
	if negated {
		peersOf(ts).cloud.FreeIPA.Forbid(args[0])
		return
	}
	peersOf(ts).cloud.FreeIPA.Allow(args[0])
}

func login(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: login USER PROJECT")
	}
	cloud := peersOf(ts).cloud
	for name, value := range map[string]string{
		"OS_AUTH_URL": cloud.AuthURL(), "OS_USERNAME": args[0], "OS_PASSWORD": cloud.Identity.Password(args[0]),
		"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_NAME": args[1], "OS_PROJECT_DOMAIN_NAME": "Default",
	} {
		ts.Setenv(name, value)
	}
	ts.Setenv("USER_ID", cloud.Identity.UserID(args[0]))
	ts.Setenv("PROJECT_ID", cloud.Identity.ProjectID(args[1]))
}

var listening = regexp.MustCompile(`(?m)msg=Listening listener=main url=(\S+)`)

func service(ts *testscript.TestScript, _ bool, _ []string) {
	found := listening.FindStringSubmatch(ts.ReadFile("server.log"))
	if found == nil {
		ts.Fatalf("the log does not say where the server listens")
	}
	peersOf(ts).cloud.Identity.AddService("ssh", "muster", found[1])
	ts.Setenv("MUSTER", found[1])
	_, address, _ := strings.Cut(found[1], "://")
	ts.Setenv("ADDRESS", address)
}

func notified(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: notified STATE")
	}
	systemd := peersOf(ts).systemd
	ts.Check(systemd.SetReadDeadline(time.Now().Add(patience)))
	message := make([]byte, 1024)
	for {
		n, err := systemd.Read(message)
		ts.Check(err)
		switch state, _, _ := strings.Cut(string(message[:n]), "\n"); state {
		case args[0]:
			return
		case "WATCHDOG=1": // comes at any time
		default:
			ts.Fatalf("the server tells systemd %q, want %q", state, args[0])
		}
	}
}

func signalAll(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}
	if len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal HUP|TERM|INT")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
	}
}

func newer(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
	ts.Check(err)
}

func certificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	write := func(name, kind string, content []byte) {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
	}
	write("tls.crt", "CERTIFICATE", signed)
	write("tls.key", "PRIVATE KEY", secret)
}

func serves(ts *testscript.TestScript, _ bool, args []string) {
	// Whose certificate it is, is what the script asks.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", ts.Getenv("ADDRESS"))
	ts.Check(err)
	defer conn.Close()
	if name := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; name != args[0] {
		ts.Fatalf("the server shows the certificate of %q, want %q", name, args[0])
	}
}

func certify(ts *testscript.TestScript, _ bool, args []string) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	key, err := ssh.NewPublicKey(public)
	ts.Check(err)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(line+" me@here\n"), 0o644))
	token, err := peersOf(ts).cloud.Identity.Token(ts.Getenv("OS_USERNAME"), ts.Getenv("OS_PASSWORD"), ts.Getenv("OS_PROJECT_NAME"))
	ts.Check(err)

	var answer struct{ Cert string }
	order := map[string]string{"user_id": ts.Getenv("USER_ID"), "auth_id": ts.Getenv("PROJECT_ID"), "pub_key": line}
	ask(ts, token, http.MethodPost, "/usercerts", order, &answer)
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(answer.Cert))
	ts.Check(err)
	cert := parsed.(*ssh.Certificate)
	ts.Setenv("SERIAL", strconv.FormatUint(cert.Serial, 10))
	ts.Setenv("KEY_ID", cert.KeyId)

	var keys struct{ Generations []struct{ ID, Role string } }
	ask(ts, token, http.MethodGet, "/v1/authorities/"+ts.Getenv("PROJECT_ID")+"/generations", nil, &keys)
	for _, generation := range keys.Generations {
		if generation.Role == "user" {
			ts.Setenv("GENERATION", generation.ID)
		}
	}
}

func hostToken(ts *testscript.TestScript, _ bool, _ []string) {
	id := make([]byte, 16)
	rand.Read(id)
	ts.Setenv("INSTANCE", hex.EncodeToString(id))
	ts.Setenv("TOKEN", tokenOf(ts, ts.Getenv("PROJECT_ID")))
}

// tokenOf makes the one-time token of $INSTANCE, as who is logged in.
func tokenOf(ts *testscript.TestScript, project string) string {
	token, err := peersOf(ts).cloud.Identity.Token(ts.Getenv("OS_USERNAME"), ts.Getenv("OS_PASSWORD"), ts.Getenv("OS_PROJECT_NAME"))
	ts.Check(err)
	var answer struct {
		Token string `json:"token_id"`
	}
	ask(ts, token, http.MethodPost, "/hosttokens",
		map[string]string{"host_id": ts.Getenv("INSTANCE"), "auth_id": project, "hostname": "web1"}, &answer)
	return answer.Token
}

func reports(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: reports REASON")
	}
	project := peersOf(ts).cloud.Identity.ProjectID("demo")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	key, err := ssh.NewSignerFromKey(private)
	ts.Check(err)
	id, err := uuid.Parse(ts.Getenv("INSTANCE"))
	ts.Check(err)
	agent, err := muster.New(muster.Config{Endpoint: ts.Getenv("MUSTER"), HostID: id, ProjectID: project, UserAgent: "muster-agent/test"})
	ts.Check(err)
	defer agent.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = agent.HostCerts(ctx, tokenOf(ts, project), []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))})
	ts.Check(err)
	ts.Check(agent.ReportEnrolment(ctx, key, agentapi.OutcomeFailed, args[0]))
}

// ask makes a request to the running server.
func ask(ts *testscript.TestScript, token, method, path string, body, into any) {
	text, err := json.Marshal(body)
	ts.Check(err)
	request, err := http.NewRequest(method, ts.Getenv("MUSTER")+path, bytes.NewReader(text))
	ts.Check(err)
	request.Header.Set("X-Auth-Token", token)
	client := http.Client{Timeout: patience}
	response, err := client.Do(request)
	ts.Check(err)
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode/100 != 2 {
		ts.Fatalf("%s %s: %s: %s", method, path, response.Status, text)
	}
	ts.Check(json.Unmarshal(text, into))
}

func get(ts *testscript.TestScript, _ bool, args []string) {
	client := http.Client{Timeout: patience}
	response, err := client.Get(ts.Getenv("MUSTER") + args[0])
	ts.Check(err)
	defer response.Body.Close()
	_, err = io.Copy(ts.Stdout(), response.Body)
	ts.Check(err)
	if strconv.Itoa(response.StatusCode) != args[1] {
		ts.Fatalf("GET %s: %s, want %s", args[0], response.Status, args[1])
	}
}
