// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// shells are those that cloud images have as /bin/sh.
var shells = map[string][]string{"dash": {"dash"}, "ash": {"busybox", "sh"}, "bash": {"bash", "--posix"}}

// program is what plays the agent: it writes down how it was called, and puts
// itself in place.
const program = `#!/bin/sh
case $0 in
*/.muster.*) folder=${0%/*/*} ;;
*) folder=${0%/*} ;;
esac
echo "$@" >>"$folder/called"
[ "$0" = "$folder/muster-agent" ] || cat "$0" >"$folder/muster-agent"
chmod 755 "$folder/muster-agent"
`

// machine is an instance that boots: a folder for its programs, and Nova's
// metadata service.
type machine struct {
	t        *testing.T
	dir      string
	path     string // $PATH
	service  *httptest.Server
	metadata func(w http.ResponseWriter, r *http.Request)
	agent    func(w http.ResponseWriter, r *http.Request)
	asked    atomic.Int32 // for metadata
	pause    string       // the longest between tries, in seconds
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir(), path: os.Getenv("PATH"), pause: "0"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openstack/latest/vendor_data2.json", func(w http.ResponseWriter, r *http.Request) {
		m.asked.Add(1)
		m.metadata(w, r)
	})
	mux.HandleFunc("GET /agent", func(w http.ResponseWriter, r *http.Request) { m.agent(w, r) })
	m.service = httptest.NewServer(mux)
	t.Cleanup(m.service.Close)
	m.metadata = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, m.vendordata(program)) }
	m.agent = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, program) }
	return m
}

// vendordata is vendor_data2.json as Nova writes it: one line, with what other
// services said beside Muster.
func (m *machine) vendordata(program string) string {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(program)))
	muster := map[string]any{
		"token": "0123456789abcdef0123456789abcdef", "auth_pub_key_user": "ssh-ed25519 AAAA", "ssh_port": 22,
		"api_ca":   "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
		"hostname": `web","agent_amd64": "http://evil.example.com`,
	}
	for _, arch := range []string{"amd64", "arm64"} {
		muster["agent_"+arch], muster["agent_"+arch+"_sha256"] = m.service.URL+"/agent", sum
	}
	data, err := json.Marshal(map[string]any{"muster": muster, "other": map[string]any{"x": []int{1}}})
	if err != nil {
		m.t.Fatal(err)
	}
	// Python's json, with which Nova writes, has blanks behind colons and commas.
	return regexp.MustCompile(`":`).ReplaceAllString(string(data), `": `)
}

// give puts a program into the machine's $PATH, before all others.
func (m *machine) give(name, text string) {
	bin := filepath.Join(m.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if !strings.HasPrefix(m.path, bin+":") {
		m.path = bin + ":" + m.path
	}
}

// only leaves the machine nothing but the named programs.
func (m *machine) only(names ...string) {
	bin := filepath.Join(m.dir, "only")
	if err := os.Mkdir(bin, 0o755); err != nil {
		m.t.Fatal(err)
	}
	for _, name := range names {
		path, err := lookSystem(name)
		if err != nil {
			skipUnlessRequired(m.t, "this machine has no "+name)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			m.t.Fatal(err)
		}
	}
	m.path = bin
}

// lookSystem finds a program of the system, not what somebody put before it.
func lookSystem(name string) (string, error) {
	for _, dir := range []string{"/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// boot runs the boot script, and returns its exit code, what it wrote to the
// standard error, and to the console.
func (m *machine) boot(shell []string) (code int, stderr, console string) {
	m.t.Helper()
	consoleFile := filepath.Join(m.dir, "console")
	if err := os.WriteFile(consoleFile, nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
	text := Script()
	for name, value := range map[string]string{
		"metadata": m.service.URL, "folder": m.folder(), "console": consoleFile, "tries": "3", "pause": m.pause,
	} {
		line := regexp.MustCompile(`(?m)^` + name + `=.*$`)
		if len(line.FindAllString(text, -1)) != 1 {
			m.t.Fatalf("the script does not set %s once", name)
		}
		text = line.ReplaceAllString(text, name+"='"+value+"'")
	}
	interpreter, err := exec.LookPath(shell[0])
	if err != nil {
		skipUnlessRequired(m.t, "this machine has no "+shell[0])
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, interpreter, append(shell[1:], "-c", text)...)
	var errors strings.Builder
	command.Stderr, command.Env = &errors, []string{"PATH=" + m.path}
	_ = command.Run() // the code tells
	said, err := os.ReadFile(consoleFile)
	if err != nil {
		m.t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), errors.String(), string(said)
}

func (m *machine) folder() string { return filepath.Join(m.dir, "sbin") }

// files lists what the machine has in the agent's folder.
func (m *machine) files() []string {
	entries, err := os.ReadDir(m.folder())
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// checkInstalled fails unless the agent is there and was told to install itself.
func (m *machine) checkInstalled(code int, stderr string) {
	m.t.Helper()
	if code != 0 {
		m.t.Fatalf("exit code %d: %s", code, stderr)
	}
	called, err := os.ReadFile(filepath.Join(m.folder(), "called"))
	if err != nil || string(called) != "install\n" {
		m.t.Errorf("the agent was called with %q (%v)", called, err)
	}
	if got := m.files(); len(got) != 2 {
		m.t.Errorf("something is left behind: %v", got)
	}
}

// checkNothing fails if anything was left in the agent's folder, or the console
// does not say what was wrong.
func (m *machine) checkNothing(code int, stderr, console, want string) {
	m.t.Helper()
	if code != 1 {
		m.t.Errorf("exit code %d, want 1", code)
	}
	if got := m.files(); len(got) != 0 {
		m.t.Errorf("left behind: %v", got)
	}
	if !strings.Contains(console, want) || !strings.Contains(stderr, want) {
		m.t.Errorf("want %q on the console and in the log, got\nconsole: %s\nlog: %s", want, console, stderr)
	}
	if strings.Contains(stderr+console, "0123456789abcdef") {
		m.t.Errorf("the token is on the console or in the log")
	}
}

// skipUnlessRequired skips a test, unless nothing may be skipped.
func skipUnlessRequired(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip("NOT TESTED: " + reason)
}

func eachShell(t *testing.T, test func(t *testing.T, m *machine, shell []string)) {
	in(t, shells, test)
}

func in(t *testing.T, shells map[string][]string, test func(t *testing.T, m *machine, shell []string)) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		skipUnlessRequired(t, "there is no agent for this architecture")
	}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newMachine(t), shell)
		})
	}
}

func TestBootFromService(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		code, stderr, _ := m.boot(shell)
		m.checkInstalled(code, stderr)
		// Again by hand: nothing is fetched any more.
		m.agent = func(http.ResponseWriter, *http.Request) { t.Error("the agent was fetched again") }
		if code, stderr, _ := m.boot(shell); code != 0 || len(m.files()) != 2 {
			t.Errorf("again: %d, %s", code, stderr)
		}
	})
}

func TestBootWithEachFetcher(t *testing.T) {
	needs := []string{"sh", "sed", "uname", "head", "mktemp", "mkdir", "rm", "mv", "chmod", "sleep", "sha256sum", "readlink", "cat"}
	for _, fetcher := range []string{"curl", "wget", "python3"} {
		t.Run(fetcher, func(t *testing.T) {
			m := newMachine(t)
			m.only(append(needs, fetcher)...)
			shell, err := exec.LookPath("dash")
			if err != nil {
				skipUnlessRequired(t, "this machine has no dash")
			}
			code, stderr, _ := m.boot([]string{shell})
			m.checkInstalled(code, stderr)
		})
	}
	t.Run("busybox's wget", func(t *testing.T) {
		m := newMachine(t)
		m.only(needs...)
		busybox, err := lookSystem("busybox")
		if err != nil {
			skipUnlessRequired(t, "this machine has no busybox")
		}
		if err := os.Symlink(busybox, filepath.Join(m.path, "wget")); err != nil {
			t.Fatal(err)
		}
		shell, err := exec.LookPath("dash")
		if err != nil {
			skipUnlessRequired(t, "this machine has no dash")
		}
		code, stderr, _ := m.boot([]string{shell})
		m.checkInstalled(code, stderr)
	})
	t.Run("none", func(t *testing.T) {
		m := newMachine(t)
		m.only(needs...)
		shell, err := exec.LookPath("dash")
		if err != nil {
			skipUnlessRequired(t, "this machine has no dash")
		}
		code, stderr, console := m.boot([]string{shell})
		m.checkNothing(code, stderr, console, "the image has neither curl nor wget nor python3")
	})
}

// TestBootFromConfigDrive plays a config drive with a mount that copies.
func TestBootFromConfigDrive(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		device := filepath.Join(m.dir, "device", "openstack", "latest")
		if err := os.MkdirAll(device, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(device, "vendor_data2.json"), []byte(m.vendordata(program)), 0o644); err != nil {
			t.Fatal(err)
		}
		m.metadata = func(http.ResponseWriter, *http.Request) { t.Error("the metadata service was asked, too") }
		m.give("blkid", "#!/bin/sh\n[ \"$2\" = LABEL=config-2 ] && echo "+filepath.Join(m.dir, "device")+"\n")
		m.give("mount", "#!/bin/sh\necho \"$@\" >>"+m.dir+"/mounts\ncp -r \"$3/openstack\" \"$4\"\n")
		m.give("umount", "#!/bin/sh\necho \"umount $1\" >>"+m.dir+"/mounts\nrm -r \"$1/openstack\"\n")
		code, stderr, _ := m.boot(shell)
		m.checkInstalled(code, stderr)
		mounts, err := os.ReadFile(filepath.Join(m.dir, "mounts"))
		if err != nil || !strings.HasPrefix(string(mounts), "-o ro ") || strings.Count(string(mounts), "umount") != 1 {
			t.Errorf("mounts: %v\n%s", err, mounts)
		}
	})
}

// TestBootFallsBack: a config drive that was made while Muster was away.
func TestBootFallsBack(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.give("blkid", "#!/bin/sh\necho "+m.dir+"\n")
		m.give("mount", "#!/bin/sh\nmkdir -p \"$4/openstack/latest\"\necho '{\"muster\": {}}' >\"$4/openstack/latest/vendor_data2.json\"\n")
		m.give("umount", "#!/bin/sh\nrm -r \"$1/openstack\"\n")
		code, stderr, _ := m.boot(shell)
		m.checkInstalled(code, stderr)
	})
}

// TestBootOfferedAnother: Muster offers another agent than the vendordata named
// that was read first, on the config drive.
func TestBootOfferedAnother(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		former := strings.ReplaceAll(m.vendordata("another program"), "/agent\"", "/former\"")
		m.give("blkid", "#!/bin/sh\necho "+m.dir+"\n")
		if err := os.WriteFile(filepath.Join(m.dir, "former"), []byte(former), 0o644); err != nil {
			t.Fatal(err)
		}
		m.give("mount", "#!/bin/sh\nmkdir -p \"$4/openstack/latest\"\ncp "+m.dir+"/former \"$4/openstack/latest/vendor_data2.json\"\n")
		m.give("umount", "#!/bin/sh\nrm -r \"$1/openstack\"\n")
		m.metadata = func(w http.ResponseWriter, _ *http.Request) {
			if m.asked.Load() == 1 { // Nova keeps its answer for some seconds
				fmt.Fprint(w, former)
				return
			}
			fmt.Fprint(w, m.vendordata(program))
		}
		code, stderr, console := m.boot(shell)
		m.checkInstalled(code, stderr)
		if !strings.Contains(console, "cannot fetch "+m.service.URL+"/former yet") {
			t.Errorf("the console says nothing of it: %s", console)
		}
	})
}

func TestBootWrongProgram(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.agent = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, program+"# and more\n") }
		code, stderr, console := m.boot(shell)
		m.checkNothing(code, stderr, console, "WRONG CHECKSUM: "+m.service.URL)
	})
}

func TestBootTruncatedProgram(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.agent = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, program[:10])
		}
		code, stderr, console := m.boot(shell)
		if code == 1 && strings.Contains(console, "WRONG CHECKSUM") {
			return // busybox's wget does not notice, the checksum does
		}
		m.checkNothing(code, stderr, console, "cannot fetch "+m.service.URL)
	})
}

func TestBootSlowMetadata(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.metadata = func(w http.ResponseWriter, _ *http.Request) {
			switch m.asked.Load() {
			case 1:
				http.Error(w, "not yet", http.StatusServiceUnavailable)
			case 2: // Muster did not answer Nova
				fmt.Fprint(w, `{"muster": {}}`)
			default:
				fmt.Fprint(w, m.vendordata(program))
			}
		}
		code, stderr, console := m.boot(shell)
		m.checkInstalled(code, stderr)
		if !strings.Contains(console, "trying again") {
			t.Errorf("the console says nothing of it: %s", console)
		}
	})
}

func TestBootWithoutMetadata(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.metadata = func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) }
		code, stderr, console := m.boot(shell)
		m.checkNothing(code, stderr, console, "no vendordata, neither on a config drive nor from")
		if m.asked.Load() != 3 {
			t.Errorf("asked %d times, want 3", m.asked.Load())
		}
		m.metadata = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"muster": {"token": "x"}}`) }
		code, stderr, console = m.boot(shell)
		m.checkNothing(code, stderr, console, "the vendordata does not name an agent")
	})
}

func TestBootOtherMachine(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine, shell []string) {
		m.give("uname", "#!/bin/sh\necho riscv64\n")
		code, stderr, console := m.boot(shell)
		m.checkNothing(code, stderr, console, "no muster-agent for the architecture riscv64")
	})
}

// TestShellcheck lets shellcheck judge the script.
func TestShellcheck(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		skipUnlessRequired(t, "this machine has no shellcheck")
	}
	command := exec.CommandContext(t.Context(), shellcheck, "--shell=sh", "-")
	command.Stdin = strings.NewReader(Script())
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The first pauses are short: mostly Nova or Muster are only busy for a moment.
func TestBootTriesAgainSoon(t *testing.T) {
	own := maps.Clone(shells)
	delete(own, "ash") // busybox's shell has a sleep of its own
	in(t, own, func(t *testing.T, m *machine, shell []string) {
		slept := filepath.Join(m.dir, "slept")
		m.give("sleep", "#!/bin/sh\necho \"$1\" >>"+slept+"\n")
		m.metadata = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }
		for pause, want := range map[string]string{"5": "1\n2\n", "1": "1\n1\n"} {
			m.pause = pause
			if err := os.WriteFile(slept, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			code, stderr, _ := m.boot(shell)
			got, err := os.ReadFile(slept)
			if code != 1 || err != nil || string(got) != want {
				t.Errorf("at most %s s: exit code %d, slept %q, want %q (%v)\n%s", pause, code, got, want, err, stderr)
			}
		}
	})
}
