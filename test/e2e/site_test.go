// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

const (
	ipaDomain = "example.test"
	// ipaUser is who Muster is in FreeIPA.
	ipaUser = "nova/muster." + ipaDomain
	// startTimeout bounds the start of a replica, on a busy machine.
	startTimeout = 3 * time.Minute
)

// site is a Muster beside a cloud, with a FreeIPA of its own.
type site struct {
	*world
	admin *cloud.Session
	// operator asks Muster as the cloud's administrator.
	operator *deployment.Client
	ipa      *freeipa.Server
	// The ways from Muster to FreeIPA and to the broker.
	toIPA, toBroker *deployment.Gate

	folder     string
	main, join *front
}

// newSite configures a Muster and prepares its database. Nothing runs yet.
func newSite(t testing.TB, w *world) *site {
	t.Helper()
	s := &site{world: w, admin: w.admin(t), folder: t.TempDir()}
	main, join := w.listen(t)
	s.main, s.join = newFront(t, main), newFront(t, join)
	s.operator = deployment.As(s.main.url(), deployment.Person{Token: s.admin.Token})
	directory := s.startFreeIPA(t)
	s.toBroker = deployment.NewGate(t, brokerAddress(w.transport))
	write(t, s.path("master.key"), custody.NewMasterKey()+"\n")
	write(t, s.path("muster.conf"), fmt.Sprintf(`[DEFAULT]
transport_url = %[1]s
shutdown_timeout = 10s
log_format = json
[database]
connection = %[2]s
[keystone_authtoken]
auth_url = %[3]s
username = muster
password = %[4]s
user_domain_id = default
project_name = service
project_domain_id = default
[custody]
master_key_file = %[5]s
[vendordata]
api_endpoint = %[6]s
[notifications]
topics = %[7]s
[oslo_messaging_rabbit]
rabbit_interval_max = 2s
[neutron]
trusted_domains = cloud.test
[enroll]
enabled = true
[listen:main]
address = 127.0.0.1:0
faces = tatu, vendordata, instance, operator, health, metrics
rate_limit = 0
[listen:join]
address = 127.0.0.1:0
faces = join
`, strings.Replace(w.transport, brokerAddress(w.transport), s.toBroker.Address(), 1), databases.PostgreSQL(t), w.authURL, w.password,
		s.path("master.key"), s.main.url(), w.topic)+directory)
	s.run(t, "db", "upgrade")
	// What it tries has a time limit that a busy machine may exceed.
	eventually(t, func(ctx context.Context) error { return s.try(ctx, t, "config", "check") })
	return s
}

// startFreeIPA starts FreeIPA's interfaces behind a real KDC, lets Muster in,
// and returns how it gets there.
func (s *site) startFreeIPA(t testing.TB) string {
	t.Helper()
	kdc := services.StartKDC(t, services.KDCOptions{Principals: []string{ipaUser, "HTTP/localhost"}})
	keys := kdc.Keytab("HTTP/localhost")
	var err error
	s.ipa, err = freeipa.New(freeipa.Config{Domain: ipaDomain, Realm: kdc.Realm, Host: "ipa." + ipaDomain,
		Keytab: func() (*keytab.Keytab, error) { return keytab.Load(keys) }})
	must(t, err)
	must(t, s.ipa.GrantHostManagement(ipaUser))
	listener := listen(t, "127.0.0.1:0")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.ipa.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		must(t, <-ended)
	})
	s.toIPA = deployment.NewGate(t, listener.Addr().String())
	write(t, s.path("ipa-ca.crt"), string(s.ipa.CA()))
	_, port, err := net.SplitHostPort(s.toIPA.Address())
	must(t, err)
	return fmt.Sprintf(`[ipa]
servers = localhost:%s
domain = %s
realm = %s
principal = %s
keytab = %s
kerberos_conf = %s
cafile = %s
client_conf =
`, port, ipaDomain, kdc.Realm, ipaUser, kdc.Keytab(ipaUser), kdc.Conf, s.path("ipa-ca.crt"))
}

// brokerAddress is the host and port in a transport_url of one host.
func brokerAddress(transport string) string {
	address := transport[strings.LastIndexByte(transport, '@')+1:]
	address, _, _ = strings.Cut(address, "/")
	return address
}

func (s *site) path(name string) string { return filepath.Join(s.folder, name) }

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// run runs a command of muster to its end.
func (s *site) run(t testing.TB, arguments ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	must(t, s.try(ctx, t, arguments...))
}

func (s *site) try(ctx context.Context, t testing.TB, arguments ...string) error {
	command := exec.CommandContext(ctx, program.get(t), append(arguments, "--config", s.path("muster.conf"))...)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("muster %s: %w\n%s", strings.Join(arguments, " "), err, out)
	}
	return nil
}

// replica is a running muster server.
type replica struct {
	site       *site
	command    *exec.Cmd
	main, join string // addresses
	ended      chan struct{}
}

// start starts a replica behind the load balancer, until the test ends.
func (s *site) start(t testing.TB, name string) *replica {
	t.Helper()
	r := &replica{site: s, ended: make(chan struct{})}
	r.command = exec.Command(program.get(t), "server", "--config", s.path("muster.conf"))
	r.command.Env = append(os.Environ(), "MUSTER_DEFAULT__HOST="+name)
	r.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := r.command.StderrPipe()
	must(t, err)
	must(t, r.command.Start())
	listening := make(chan [2]string, 1)
	kept := &recent{}
	go func() {
		defer close(r.ended)
		r.follow(log, kept, listening)
		_ = r.command.Wait() // it may be killed on purpose
	}()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("what the replica %s logged last:\n%s", name, kept)
		}
	})
	select {
	case both := <-listening:
		r.main, r.join = both[0], both[1]
	case <-r.ended:
		t.Fatalf("the replica ended while starting:\n%s", kept)
	case <-time.After(startTimeout):
		t.Fatalf("the replica does not listen:\n%s", kept)
	}
	s.main.add(r.main)
	s.join.add(r.join)
	return r
}

// follow reads the log to its end, and tells the addresses of both listeners
// when they are known.
func (r *replica) follow(log interface{ Read([]byte) (int, error) }, kept *recent, listening chan<- [2]string) {
	found := map[string]string{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Listener, URL string }
		err := json.Unmarshal(lines.Bytes(), &line)
		if err != nil || line.Msg != "request" {
			kept.add(lines.Text())
		}
		if err != nil || line.Msg != "Listening" {
			continue
		}
		found[line.Listener] = strings.TrimPrefix(line.URL, "http://")
		if found["main"] != "" && found["join"] != "" {
			listening <- [2]string{found["main"], found["join"]}
			found = map[string]string{}
		}
	}
}

// kill ends the replica as a crash does.
func (r *replica) kill() {
	r.site.main.remove(r.main)
	r.site.join.remove(r.join)
	_ = r.command.Process.Kill() // gone already, or going
	<-r.ended
}
