// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"
)

//go:embed neutron_agent.py
var neutronAgent string

// pythonMain runs the function of MODULE:FUNCTION, or a module's main: what the
// scripts of Debian's service packages do, without those packages.
const pythonMain = `import importlib, sys
name, _, function = sys.argv.pop(1).partition(":")
sys.argv[0] = name.rsplit(".", 1)[-1]
sys.exit(getattr(importlib.import_module(name), function or "main")())`

// daemonTimeout bounds the start of a daemon, and each step of the set-up. They
// take seconds on a quiet machine.
const daemonTimeout = 5 * time.Minute

// OpenStack is a private cloud on loopback: the real Keystone, Glance,
// Placement, Neutron and Nova of Debian's packages over a RabbitMQ and a
// MariaDB of their own. Nova's compute driver is its fake one: instances are
// built in no time, and run nothing. Ports are bound, and forward nothing.
//
// Muster's side is in it as an operator would have it: a service user with
// the roles admin and service, an entry in the catalog, notifications, and
// Nova's calls at boot.
type OpenStack struct {
	AuthURL        string // Keystone's, ending in /v3
	MetadataURL    string // the root of Nova's metadata service
	MetadataSecret string // metadata_proxy_shared_secret
	Password       string // of the users admin (project admin), and muster and nova (project service)
	TransportURL   string // of the broker
	// Topics of the notifications: Keystone's, Neutron's and Nova's
	// unversioned ones; Nova's versioned ones.
	Topic, VersionedTopic string
	// Vendordata is the address (host:port) at which Nova calls Muster. Nobody
	// listens there yet. In vendor_data2.json the answers are called muster
	// (POST /v1/vendordata), tatu (/v1/novavendordata) and join, of Join.
	Vendordata, Join string
	// What instances are made of: an image, another one that asks for
	// enrolment (ipa_enroll), a flavor, a network, and the network that floating
	// IPs come from.
	Image, AskingImage, Flavor, Network, PublicNetwork string
	// Broker is stopped and started by tests.
	Broker *RabbitMQ `json:"-"`

	folder    string
	database  *Server
	ports     ports
	eventlet  bool       // see hasEventlet
	mu        sync.Mutex // guards processes
	processes []*process
}

// ports are those of the services that take no open socket.
type ports struct{ glance, neutron, nova, metadata, placement int }

// StartOpenStack puts the cloud up, in minutes. ErrMissing if it isn't installed.
func StartOpenStack(ctx context.Context) (*OpenStack, error) {
	check := exec.CommandContext(ctx, python, "-I", "-c", "import glance, keystone, neutron, nova, placement, pymysql")
	if err := check.Run(); err != nil {
		return nil, fmt.Errorf("OpenStack: %w (with the argument e2e)", ErrMissing)
	}
	folder, err := os.MkdirTemp("", "muster-openstack-")
	if err != nil {
		return nil, err
	}
	o := &OpenStack{folder: folder, Password: rand.Text(), MetadataSecret: rand.Text(),
		Topic: "muster_notifications", VersionedTopic: "muster_versioned"}
	if err := o.begin(ctx); err != nil {
		return nil, fmt.Errorf("OpenStack: %w", errors.Join(err, o.Stop()))
	}
	return o, nil
}

// Stop ends everything and removes it.
func (o *OpenStack) Stop() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, p := range o.processes {
		// Nothing is worth keeping.
		errs = append(errs, p.end(syscall.SIGKILL))
	}
	if o.Broker != nil {
		errs = append(errs, o.Broker.Stop())
	}
	if o.database != nil {
		errs = append(errs, o.database.Stop())
	}
	return errors.Join(append(errs, remove(o.folder))...)
}

// Logs returns the end of what each daemon said, for a test that failed.
func (o *OpenStack) Logs() string {
	files, _ := filepath.Glob(o.path("log", "*")) // the pattern is good
	var all strings.Builder
	for _, file := range files {
		fmt.Fprintf(&all, "== %s\n%s\n", filepath.Base(file), o.log(filepath.Base(file)))
	}
	return all.String()
}

func (o *OpenStack) begin(ctx context.Context) error {
	for _, port := range []*int{&o.ports.glance, &o.ports.neutron, &o.ports.nova, &o.ports.metadata, &o.ports.placement} {
		var err error
		if *port, err = Port(); err != nil {
			return err
		}
	}
	o.MetadataURL = local(o.ports.metadata)
	o.eventlet = o.hasEventlet(ctx)
	for _, address := range []*string{&o.Vendordata, &o.Join} {
		port, err := Port()
		if err != nil {
			return err
		}
		*address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	keystone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer keystone.Close()
	o.AuthURL = "http://" + keystone.Addr().String() + "/v3"
	if err := o.startBase(ctx); err != nil {
		return err
	}
	if err := o.configure(); err != nil {
		return err
	}
	return o.startServices(ctx, keystone)
}

// startBase starts what all services need.
func (o *OpenStack) startBase(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		o.Broker, err = StartRabbitMQ(ctx)
		return err
	})
	group.Go(func() (err error) {
		// The schemas' keys are too long for four bytes in each character.
		o.database, err = startMariaDB(ctx, "--character-set-server=utf8mb3", "--max-connections=500", "--innodb-doublewrite=0",
			"--innodb-flush-log-at-trx-commit=0", "--skip-log-bin")
		if err != nil {
			return err
		}
		for _, name := range []string{"keystone", "glance", "placement", "neutron", "nova_api", "nova_cell0", "nova"} {
			if _, err := o.database.Database(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	o.TransportURL = o.Broker.URL("/")
	return nil
}

// startServices fills the databases and starts the daemons, side by side as
// far as they don't wait for each other.
func (o *OpenStack) startServices(ctx context.Context, keystone net.Listener) error {
	group, together := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := o.startKeystone(together, keystone); err != nil {
			return err
		}
		if err := o.seedIdentity(together); err != nil {
			return err
		}
		if err := o.manage(together, "placement", "db", "sync"); err != nil {
			return err
		}
		return o.startPlacement(together)
	})
	group.Go(func() error {
		if err := o.run(together, "glance-api", "glance.cmd.manage", "db_sync"); err != nil {
			return err
		}
		return o.startAPI(together, "glance-api", "glance.cmd.api", "glance.wsgi.api:application", o.ports.glance)
	})
	group.Go(func() error {
		if err := o.run(together, "neutron", "neutron.db.migration.cli", "upgrade", "heads"); err != nil {
			return err
		}
		return o.startNeutron(together)
	})
	group.Go(func() error { return o.startNova(together) })
	if err := group.Wait(); err != nil {
		return err
	}
	return o.seedCloud(ctx)
}

func (o *OpenStack) startKeystone(ctx context.Context, listener net.Listener) error {
	for _, keys := range []string{"fernet", "credential"} {
		if err := writeFernetKeys(o.path("etc", "keystone", keys)); err != nil {
			return err
		}
	}
	if err := o.manage(ctx, "keystone", "db_sync"); err != nil {
		return err
	}
	err := o.manage(ctx, "keystone", "bootstrap", "--bootstrap-password", o.Password, "--bootstrap-region-id", region,
		"--bootstrap-admin-url", o.AuthURL, "--bootstrap-internal-url", o.AuthURL, "--bootstrap-public-url", o.AuthURL)
	if err != nil {
		return err
	}
	return o.startWSGI(ctx, "keystone", "keystone.server.wsgi:initialize_public_application()", listener)
}

func (o *OpenStack) startPlacement(ctx context.Context) error {
	return o.startWSGIAt(ctx, "placement", "placement.wsgi:init_application()", o.ports.placement)
}

func (o *OpenStack) startNeutron(ctx context.Context) error {
	err := o.startAPI(ctx, "neutron", "neutron.cmd.eventlet.server", "neutron.wsgi.api:application", o.ports.neutron)
	if err == nil && !o.eventlet {
		// What the server did besides is theirs now.
		err = errors.Join(o.start("neutron-rpc", o.daemon("neutron.cmd.server:main_rpc", "neutron")),
			o.start("neutron-periodic", o.daemon("neutron.cmd.server:main_periodic", "neutron")))
	}
	if err != nil {
		return err
	}
	return o.start("neutron-agent", o.program(append([]string{"-c", neutronAgent}, o.files("neutron")...)...))
}

// startNova starts the conductor first: what the others ask it at their start
// is lost before its queue is there, and they give up after a minute.
func (o *OpenStack) startNova(ctx context.Context) error {
	for _, step := range [][]string{{"api_db", "sync"}, {"cell_v2", "map_cell0", "--database_connection", o.url("nova_cell0")}, {"db", "sync"},
		{"cell_v2", "create_cell", "--name", "cell1"}} {
		if err := o.manage(ctx, "nova", step...); err != nil {
			return err
		}
	}
	if err := o.start("nova-conductor", o.daemon("nova.cmd.conductor", "nova")); err != nil {
		return err
	}
	if err := o.awaitConsumer(ctx, "conductor"); err != nil {
		return err
	}
	err := errors.Join(o.start("nova-scheduler", o.daemon("nova.cmd.scheduler", "nova")),
		o.start("nova-compute", o.daemon("nova.cmd.compute", "nova-compute")))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return o.startAPI(ctx, "nova", "nova.cmd.api_os_compute", "nova.wsgi.osapi_compute:application", o.ports.nova)
	})
	group.Go(func() error {
		return o.startAPI(ctx, "nova-metadata", "nova.cmd.api_metadata", "nova.wsgi.metadata:application", o.ports.metadata)
	})
	return group.Wait()
}

// awaitConsumer returns when somebody listens to a queue.
func (o *OpenStack) awaitConsumer(ctx context.Context, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	connection, err := amqp091.Dial(strings.Replace(o.TransportURL, "rabbit://", "amqp://", 1))
	if err != nil {
		return err
	}
	defer connection.Close()
	return o.await(ctx, "nova-conductor", func() bool {
		channel, err := connection.Channel()
		if err != nil {
			return false
		}
		found, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
		if err != nil {
			return false // and the channel is closed
		}
		return channel.Close() == nil && found.Consumers > 0
	})
}

// exited is closed when the daemon has ended.
func (o *OpenStack) exited(daemon string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.processes {
		if p.name == daemon {
			return p.exited
		}
	}
	return nil
}

// await asks until the answer is yes, or until the daemon has ended.
func (o *OpenStack) await(ctx context.Context, daemon string, ready func() bool) error {
	exited := o.exited(daemon)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !ready() {
		select {
		case <-again.C:
		case <-exited:
			return fmt.Errorf("%s ended while starting:\n%s", daemon, o.log(daemon))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", daemon, ctx.Err(), o.log(daemon))
		}
	}
	return nil
}

// startAPI starts a service that answers HTTP, and waits until it does: by the
// main function of a module, or else as the WSGI application that is all there is.
func (o *OpenStack) startAPI(ctx context.Context, name, module, application string, port int) error {
	if !o.eventlet {
		return o.startWSGIAt(ctx, name, application, port)
	}
	config, _ := strings.CutSuffix(name, "-metadata")
	if err := o.start(name, o.daemon(module, config)); err != nil {
		return err
	}
	return o.awaitHTTP(ctx, name, local(port))
}

// hasEventlet tells whether the services have servers of their own, which 2026.1
// took away.
func (o *OpenStack) hasEventlet(ctx context.Context) bool {
	find := "import importlib.util, sys; sys.exit(not importlib.util.find_spec('neutron.cmd.eventlet'))"
	return exec.CommandContext(ctx, python, "-I", "-c", find).Run() == nil
}

// startWSGIAt serves an application at a port.
func (o *OpenStack) startWSGIAt(ctx context.Context, name, application string, port int) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	defer listener.Close()
	return o.startWSGI(ctx, name, application, listener)
}

// startWSGI serves an application on an open listener.
func (o *OpenStack) startWSGI(ctx context.Context, name, application string, listener net.Listener) error {
	command, err := wsgiServer(application, 8, listener)
	if err != nil {
		return err
	}
	defer command.ExtraFiles[0].Close()
	life, err := command.StdinPipe()
	if err != nil {
		return err
	}
	if err := o.start(name, command); err != nil {
		return errors.Join(err, life.Close())
	}
	return o.awaitHTTP(ctx, name, "http://"+listener.Addr().String())
}

func (o *OpenStack) awaitHTTP(ctx context.Context, daemon, url string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	return o.await(ctx, daemon, func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		response, err := http.DefaultClient.Do(request)
		return err == nil && response.Body.Close() == nil
	})
}

// start starts a daemon that writes its log to a file.
func (o *OpenStack) start(name string, command *exec.Cmd) error {
	log, err := os.OpenFile(o.path("log", name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	o.contain(command)
	command.Stdout, command.Stderr = log, log
	p, err := begin(command)
	if err != nil {
		return err
	}
	p.name = name
	o.mu.Lock()
	defer o.mu.Unlock()
	o.processes = append(o.processes, p)
	return nil
}

// contain keeps what is set up on the machine away from a program.
func (o *OpenStack) contain(command *exec.Cmd) {
	command.Dir = o.folder
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + o.folder, "TMPDIR=" + o.folder,
		"OS_KEYSTONE_CONFIG_DIR=" + o.path("etc", "keystone"), "OS_KEYSTONE_CONFIG_FILES=" + o.file("keystone"),
		"OS_PLACEMENT_CONFIG_DIR=" + o.path("etc", "placement"), "OS_GLANCE_CONFIG_DIR=" + o.path("etc", "glance"),
		"OS_NEUTRON_CONFIG_FILES=" + o.file("neutron"), "OS_NOVA_CONFIG_FILES=" + novaPaste + ";" + o.file("nova")}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func (o *OpenStack) program(arguments ...string) *exec.Cmd {
	return exec.Command(python, append([]string{"-I"}, arguments...)...)
}

func (o *OpenStack) daemon(module, config string) *exec.Cmd {
	return o.program(append([]string{"-c", pythonMain, module}, o.files(config)...)...)
}

// manage runs a service's NAME-manage to its end.
func (o *OpenStack) manage(ctx context.Context, service string, arguments ...string) error {
	return o.run(ctx, service, service+".cmd.manage", arguments...)
}

func (o *OpenStack) run(ctx context.Context, config, module string, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	all := append([]string{"-I", "-c", pythonMain, module}, o.files(config)...)
	command := exec.CommandContext(ctx, python, append(all, arguments...)...)
	o.contain(command)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", module, arguments[0], err, tail(out))
	}
	return nil
}

// files are the arguments that name the configuration, and leave out that of
// the machine.
func (o *OpenStack) files(config string) []string {
	return []string{"--config-file", o.file(config), "--config-dir", o.path("empty")}
}

func (o *OpenStack) path(names ...string) string {
	return filepath.Join(append([]string{o.folder}, names...)...)
}

// file is where a configuration stands: by its name, in a folder of the
// service, where the service also looks for its policy.
func (o *OpenStack) file(config string) string {
	service, _, _ := strings.Cut(config, "-")
	return o.path("etc", service, config+".conf")
}

func (o *OpenStack) log(daemon string) []byte {
	text, err := os.ReadFile(o.path("log", daemon))
	if err != nil {
		return []byte(err.Error())
	}
	return tail(text)
}

func (o *OpenStack) url(database string) string { return o.database.kind.url(o.database, database) }

func local(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// writeFernetKeys makes a folder of two fresh keys, as `keystone-manage
// fernet_setup` does.
func writeFernetKeys(folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"0", "1"} {
		key := make([]byte, 32)
		rand.Read(key)
		if err := os.WriteFile(filepath.Join(folder, name), []byte(base64.URLEncoding.EncodeToString(key)), 0o600); err != nil {
			return err
		}
	}
	return nil
}
