// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/dev"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/uuid"
)

// asAgent makes the test's own program the agent's.
const asAgent = "MUSTER_AGENT_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
		return
	}
	os.Exit(agenttest.Main(m))
}

// patience bounds whatever a test waits for.
const patience = 3 * time.Minute

// instance is a machine that boots in a cloud with a Muster.
type instance struct {
	t        *testing.T
	env      *dev.Environment
	root     string
	id       string
	metadata string
}

func newInstance(t *testing.T) *instance {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it starts a cloud and a machine")
	}
	i := &instance{t: t, root: agenttest.Machine(t, "sshd", "ssh-keygen", "useradd", "usermod", "userdel", "visudo")}
	var err error
	if i.env, err = dev.New(t.Context(), dev.Config{}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.env.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	demo := i.env.User("demo")
	id, err := i.env.Cloud.Compute.Boot(t.Context(), compute.Server{Name: "web-1", ProjectID: demo.ProjectID, UserID: demo.ID})
	if err != nil {
		t.Fatal(err)
	}
	i.env.Cloud.Compute.Wait()
	if i.id, err = uuid.Parse(id); err != nil {
		t.Fatal(err)
	}
	i.serveMetadata(demo.ProjectID)
	return i
}

// serveMetadata does what Neutron's proxy does between an instance and Nova.
func (i *instance) serveMetadata(projectID string) {
	nova, err := url.Parse(i.env.MetadataURL)
	if err != nil {
		i.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(nova)
		id := uuid.Dashed(i.id)
		r.Out.Header.Set("X-Instance-ID", id)
		r.Out.Header.Set("X-Tenant-ID", projectID)
		r.Out.Header.Set("X-Forwarded-For", "192.0.2.10")
		r.Out.Header.Set("X-Instance-ID-Signature", i.env.Cloud.Compute.Sign(id))
	}}
	server := httptest.NewServer(proxy)
	i.t.Cleanup(server.Close)
	i.metadata = server.URL
}

// command is the agent, on the machine's tree.
func (i *instance) command(name string, args ...string) *exec.Cmd {
	command := exec.Command("/proc/self/exe", append([]string{name, "--root", i.root}, args...)...)
	command.Args[0] = "muster-agent"
	command.Env = append(os.Environ(), asAgent+"=1")
	return command
}

// agent runs the agent to its end and returns what it said.
func (i *instance) agent(code int, name string, args ...string) string {
	i.t.Helper()
	command := i.command(name, args...)
	out, err := command.CombinedOutput()
	if command.ProcessState == nil || command.ProcessState.ExitCode() != code {
		i.t.Fatalf("muster-agent %s: %v, want exit code %d\n%s", name, err, code, out)
	}
	return string(out)
}

// start runs the agent as a service until the returned function is called.
func (i *instance) start() (pid int, stop func()) {
	i.t.Helper()
	command := i.command("run", "--metadata", i.metadata)
	command.Env = append(command.Env, "INVOCATION_ID=test")
	var log bytes.Buffer
	command.Stderr = &log
	if err := command.Start(); err != nil {
		i.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			i.t.Errorf("the agent: %v\n%s", err, log.String())
		}
		if !strings.HasPrefix(log.String(), "<6>Starting version=") || strings.Contains(log.String(), "level=") {
			i.t.Errorf("not what the journal wants:\n%s", log.String())
		}
	})
	i.t.Cleanup(stop)
	return command.Process.Pid, stop
}

// await waits until the status is as wanted.
func (i *instance) await(what string, done func(*agent.Status) bool) *agent.Status {
	i.t.Helper()
	folder := filepath.Join(i.root, runFolder)
	var status *agent.Status
	var err error
	if !agenttest.Await(i.t, patience, folder, func() bool {
		status, err = agent.ReadStatus(folder)
		return err == nil && done(status)
	}) {
		i.t.Fatalf("not in time: %s; status %+v, %v", what, status, err)
	}
	return status
}

func (i *instance) programs() files.Programs { return files.Programs{Root: i.root} }

// revoke revokes a new certificate of the demo user's, and returns the list's
// new version.
func (i *instance) revoke() {
	i.t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		i.t.Fatal(err)
	}
	demo, admin := i.env.User("demo"), i.env.User("admin")
	var cert struct{ Serial uint64 }
	i.ask(demo, "/v1/usercerts", map[string]any{
		"user_id": demo.ID, "auth_id": demo.ProjectID, "pub_key": strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
	}, &cert)
	i.ask(admin, "/v1/revokeduserkeys/"+demo.ProjectID, map[string]any{"serial": cert.Serial}, &struct{}{})
}

func (i *instance) ask(as dev.User, path string, body, into any) {
	i.t.Helper()
	token, err := i.env.Cloud.Identity.Token(as.Name, as.Password, as.Project)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := json.Marshal(body)
	if err != nil {
		i.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(i.t.Context(), http.MethodPost, i.env.MusterURL+path, bytes.NewReader(text))
	if err != nil {
		i.t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", token)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		i.t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil || answer.StatusCode > 299 {
		i.t.Fatalf("%s: %s, %v", path, answer.Status, err)
	}
}

// tree describes all files of some folders.
func (i *instance) tree(folders ...string) map[string]string {
	i.t.Helper()
	all := map[string]string{}
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(i.root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || strings.HasSuffix(path, ".lock") {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			described := info.Mode().String()
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				described += " " + string(content)
			}
			all[strings.TrimPrefix(path, i.root)] = described
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.t.Fatal(err)
		}
	}
	// What useradd and userdel leave of themselves.
	for _, name := range []string{"passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"} {
		delete(all, "/etc/"+name)
	}
	return all
}

// startSSHD starts the instance's sshd, and waits until it listens. The network
// is the test's own.
func (i *instance) startSSHD() {
	i.t.Helper()
	agenttest.Start(i.t, i.root, "sshd", "-D", "-e")
	ctx, cancel := context.WithTimeout(i.t.Context(), time.Minute)
	defer cancel()
	for {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:22")
		if err == nil {
			_ = connection.Close()
			return
		}
		select {
		case <-ctx.Done():
			i.t.Fatal("sshd does not listen: ", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shut takes the algorithm of Muster's authorities away from sshd, as policies of a
// whole system do, and gives it back: doctor says so, and what to do.
func (i *instance) shut() {
	i.t.Helper()
	const policy = "/etc/ssh/sshd_config.d/50-policy.conf"
	agenttest.Write(i.t, i.root, policy, "CASignatureAlgorithms ecdsa-sha2-nistp256\n")
	if out := i.agent(exitFailed, "doctor", "--metadata", i.metadata); !strings.Contains(out, "WRONG  sshd") ||
		!strings.Contains(out, "set [ssh] ca_algorithm to ecdsa-p256") {
		i.t.Errorf("doctor:\n%s", out)
	}
	if err := os.Remove(filepath.Join(i.root, policy)); err != nil {
		i.t.Error(err)
	}
}

// TestLife: an instance from its boot until the agent is taken away, with the
// real Muster, sshd, useradd and visudo.
func TestLife(t *testing.T) {
	i := newInstance(t)
	if out := i.agent(exitFailed, "status"); !strings.Contains(out, "no agent has run") {
		t.Errorf("status before: %s", out)
	}
	before := i.tree("/etc", "/home", "/var/lib/muster-agent", "/usr/local/sbin")

	_, stop := i.start()
	status := i.await("set up", func(s *agent.Status) bool { return !s.ConfiguredAt.IsZero() && len(s.Problems) == 0 })
	if status.InstanceID != i.id || len(status.Certificates) == 0 || len(status.UserCAs) != 1 || len(status.Accounts) == 0 {
		t.Errorf("status: %+v", status)
	}
	out, err := i.programs().Run(t.Context(), nil, "sshd", "-T")
	settings := sshd.ParseSettings(out)
	for keyword, want := range map[string]string{
		"hostcertificate": "/etc/ssh/muster/", "trustedusercakeys": "/etc/ssh/muster/", "passwordauthentication": "no",
	} {
		if value := settings[keyword]; err != nil || len(value) == 0 || !strings.HasPrefix(value[0], want) {
			t.Errorf("sshd -T: %v, %s is %q", err, keyword, value)
		}
	}
	for _, account := range status.Accounts {
		if _, err := i.programs().Run(t.Context(), nil, "id", account); err != nil {
			t.Error(err)
		}
	}
	if out := i.agent(exitOK, "status"); !strings.Contains(out, "Revocations:") || !strings.Contains(out, i.id) {
		t.Errorf("status: %s", out)
	}
	var shown struct {
		Running    bool
		InstanceID string `json:"instance_id"`
	}
	if err := json.Unmarshal([]byte(i.agent(exitOK, "status", "-o", "json")), &shown); err != nil || !shown.Running || shown.InstanceID != i.id {
		t.Errorf("status as JSON: %v, %+v", err, shown)
	}
	// sshd has not been started yet.
	if out := i.agent(exitFailed, "doctor", "--metadata", i.metadata); strings.Count(out, "WRONG") != 1 || !strings.Contains(out, "nothing listens on port 22,") {
		t.Errorf("doctor:\n%s", out)
	}
	i.startSSHD()
	if out := i.agent(exitOK, "doctor", "--metadata", i.metadata); strings.Contains(out, "WRONG") {
		t.Errorf("doctor:\n%s", out)
	}
	i.shut()
	// Cron starts a second one each five minutes: nothing of that is in the log.
	if out := i.agent(exitFailed, "run"); !strings.HasPrefix(out, "muster-agent: another muster-agent is at work") {
		t.Errorf("a second one: %s", out)
	}

	list := status.List.Version
	i.revoke()
	begin := time.Now()
	i.await("the revocation", func(s *agent.Status) bool { return s.List.Version > list })
	// 2 s are wanted; the limit is for machines that are busy, below what an agent
	// waits that nobody wakes.
	took := time.Since(begin)
	t.Logf("the agent had the revocation after %v", took)
	if took > 30*time.Second {
		t.Errorf("the revocation took %v", took)
	}
	stop()
	if out := i.agent(exitFailed, "status"); !strings.Contains(out, "DOES NOT RUN") {
		t.Errorf("status afterwards: %s", out)
	}

	i.agent(exitOK, "uninstall")
	if diff := cmp.Diff(before, i.tree("/etc", "/home", "/var/lib/muster-agent", "/usr/local/sbin")); diff != "" {
		t.Errorf("uninstall leaves a difference:\n%s", diff)
	}
}

// TestInstall puts the agent in place, where cron is what starts services, and
// takes it away again while it runs.
func TestInstall(t *testing.T) {
	i := newInstance(t)
	if err := os.MkdirAll(filepath.Join(i.root, "etc/cron.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := i.tree("/etc/cron.d", "/usr/local/sbin")
	for range 2 {
		if out := i.agent(exitOK, "install", "--start=false"); !strings.Contains(out, "a service of cron") {
			t.Errorf("install: %s", out)
		}
	}
	lines, err := os.ReadFile(filepath.Join(i.root, "etc/cron.d/muster-agent"))
	if err != nil || !strings.Contains(string(lines), installed+" run") {
		t.Errorf("%v\n%s", err, lines)
	}
	if info, err := os.Stat(filepath.Join(i.root, installed)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v", err)
	}
	command := i.command("run", "--metadata", i.metadata)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	i.await("runs", func(s *agent.Status) bool { return s.PID == command.Process.Pid && !s.ConfiguredAt.IsZero() })
	i.agent(exitOK, "uninstall")
	if err := <-ended; err != nil {
		t.Errorf("the agent that was ended: %v", err)
	}
	if diff := cmp.Diff(before, i.tree("/etc/cron.d", "/usr/local/sbin")); diff != "" {
		t.Errorf("uninstall leaves a difference:\n%s", diff)
	}
}

// TestOnceWithoutMuster says what is missing when the time is over.
func TestOnceWithoutMuster(t *testing.T) {
	i := newInstance(t)
	out := i.agent(exitFailed, "once", "--wait", "5s", "--metadata", "http://127.0.0.1:1")
	if !strings.Contains(out, "metadata: no OpenStack metadata: ") {
		t.Errorf("got: %s", out)
	}
	if _, err := i.programs().Run(t.Context(), nil, "sshd", "-t"); err != nil {
		t.Errorf("sshd: %v", err)
	}
	if out := i.agent(exitFailed, "doctor", "--metadata", "http://127.0.0.1:1"); !strings.Contains(out, "WRONG  metadata") {
		t.Errorf("doctor: %s", out)
	}
}

// usage is a process's memory in kB and its time on the processor.
func usage(t *testing.T, pid int) (kilobytes int, ticks int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmRSS:" {
			kilobytes, _ = strconv.Atoi(fields[1])
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return kilobytes, user + system
}

// TestWeight holds a release's program to what an instance can spare: less than
// 10 MB of disk, less than 20 MB of memory.
func TestWeight(t *testing.T) {
	i := newInstance(t)
	built := filepath.Join(t.TempDir(), "muster-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", built, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(built)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() >= 10_000_000 {
		t.Errorf("the program has %d bytes", info.Size())
	}
	command := exec.Command(built, "run", "--root", i.root, "--metadata", i.metadata)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			t.Error(err)
		}
	}()
	i.await("set up", func(s *agent.Status) bool { return s.PID == command.Process.Pid && !s.ConfiguredAt.IsZero() })
	for range 5 {
		i.revoke()
	}
	i.await("revocations", func(s *agent.Status) bool { return s.List.Version >= 5 })
	kilobytes, ticks := usage(t, command.Process.Pid)
	t.Logf("%d bytes of program; %d kB of memory, %d hundredths of a second of processor time for boot and 5 revocations", info.Size(), kilobytes, ticks)
	if kilobytes >= 20_000 {
		t.Errorf("it uses %d kB of memory", kilobytes)
	}
}
