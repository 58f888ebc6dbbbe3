// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	rabbitUser = "muster"
	// rabbitPassword has what a URL must escape, but no slash: oslo.messaging trips over it.
	rabbitPassword = "p@ss:w,rd%"
	// rabbitHosts is how many virtual hosts there are for tests to take.
	rabbitHosts = 80
)

// RabbitMQ is a private broker on loopback, with an Erlang node and a port mapper (epmd) of its own.
type RabbitMQ struct {
	folder             string
	programs           string // RabbitMQ's own folder of scripts, which run as whoever starts them
	port, dist, mapped int
	tls                *RabbitTLS
	tlsPort            int
	mapper, broker     *process
	taken              atomic.Int64
	cluster            *RabbitMQ // a node of the cluster that this one joins
}

// RabbitTLS are PEM files for a broker that speaks TLS too.
type RabbitTLS struct {
	CertFile, KeyFile string // its own certificate
	CAFile            string // who certifies clients
}

// process is a program that was started, in a process group of its own.
type process struct {
	name    string
	command *exec.Cmd
	exited  chan struct{}
}

// StartRabbitMQ starts a broker with empty virtual hosts. ErrMissing if it isn't installed.
func StartRabbitMQ(ctx context.Context) (*RabbitMQ, error) { return startRabbitMQ(ctx, nil, nil) }

// StartRabbitMQWithTLS starts one that also takes connections by TLS, with or without a client's certificate. Who has one may log in by it
// (EXTERNAL) as the user whose name is the certificate's common name.
func StartRabbitMQWithTLS(ctx context.Context, files RabbitTLS) (*RabbitMQ, error) {
	return startRabbitMQ(ctx, &files, nil)
}

// StartRabbitMQCluster starts brokers that are one cluster: what the first one has, all have. Stop them in the reverse order: the others use
// the first one's port mapper.
func StartRabbitMQCluster(ctx context.Context, size int) (nodes []*RabbitMQ, err error) {
	for range size {
		var first *RabbitMQ
		if len(nodes) > 0 {
			first = nodes[0]
		}
		node, err := startRabbitMQ(ctx, nil, first)
		if err != nil {
			for _, started := range slices.Backward(nodes) {
				err = errors.Join(err, started.Stop())
			}
			return nil, err
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

func startRabbitMQ(ctx context.Context, files *RabbitTLS, cluster *RabbitMQ) (*RabbitMQ, error) {
	server, err := newest("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err != nil {
		return nil, fmt.Errorf("RabbitMQ: %w", err)
	}
	folder, err := os.MkdirTemp("", "muster-rabbit-")
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{folder: folder, programs: filepath.Dir(server), tls: files, cluster: cluster}
	for _, port := range []*int{&r.port, &r.dist, &r.mapped, &r.tlsPort} {
		if *port, err = Port(); err != nil {
			return nil, errors.Join(err, r.Stop())
		}
	}
	err = r.configure()
	if err == nil && cluster != nil {
		r.mapped, err = cluster.mapped, r.copyCookie()
	} else if err == nil {
		r.mapper, err = r.launch("epmd", "-port", strconv.Itoa(r.mapped), "-address", "127.0.0.1")
	}
	if err == nil {
		err = r.Start(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("RabbitMQ: %w", errors.Join(err, r.Stop()))
	}
	return r, nil
}

// configure writes the broker's files. The virtual hosts and the user are there from its first start on: a call of rabbitmqctl takes seconds.
func (r *RabbitMQ) configure() error {
	type object = map[string]any
	hosts, permissions := []object{{"name": "/"}}, []object{}
	for i := range rabbitHosts {
		hosts = append(hosts, object{"name": virtualHost(i)})
	}
	for _, host := range hosts {
		permissions = append(permissions, object{"user": rabbitUser, "vhost": host["name"], "configure": ".*", "write": ".*", "read": ".*"})
	}
	// https://www.rabbitmq.com/docs/passwords#computing-password-hash
	salt := make([]byte, 4)
	rand.Read(salt)
	sum := sha256.Sum256(append(salt[:4:4], rabbitPassword...))
	definitions, err := json.Marshal(object{"vhosts": hosts, "permissions": permissions, "users": []object{{"name": rabbitUser,
		"password_hash": base64.StdEncoding.EncodeToString(append(salt, sum[:]...)), "hashing_algorithm": "rabbit_password_hashing_sha256",
		"tags": "administrator"}}})
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("listeners.tcp.default = 127.0.0.1:%d\nload_definitions = %s\nvm_memory_high_watermark.absolute = 1GB\n"+
		"disk_free_limit.absolute = 1MB\n", r.port, r.path("definitions.json"))
	if r.cluster != nil {
		conf += "cluster_formation.peer_discovery_backend = classic_config\ncluster_formation.classic_config.nodes.1 = " + r.cluster.node() + "\n"
	}
	plugins := "[]."
	if r.tls != nil {
		plugins = "[rabbitmq_auth_mechanism_ssl]."
		conf += fmt.Sprintf("listeners.ssl.default = 127.0.0.1:%d\nssl_options.certfile = %s\nssl_options.keyfile = %s\nssl_options.cacertfile = %s\n"+
			"ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\nssl_cert_login_from = common_name\n"+
			"auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n",
			r.tlsPort, r.tls.CertFile, r.tls.KeyFile, r.tls.CAFile)
	}
	for name, text := range map[string]string{"definitions.json": string(definitions), "rabbitmq.conf": conf, "env.conf": "", "plugins": plugins} {
		if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// copyCookie takes over the secret by which the nodes of a cluster trust each other.
func (r *RabbitMQ) copyCookie() error {
	const cookie = ".erlang.cookie"
	secret, err := os.ReadFile(r.cluster.path(cookie))
	if err != nil {
		return err
	}
	return os.WriteFile(r.path(cookie), secret, 0o400)
}

// node is the name of the Erlang node. The port tells nodes of tests that run side by side apart.
func (r *RabbitMQ) node() string { return fmt.Sprintf("muster%d@localhost", r.port) }

func virtualHost(number int) string { return fmt.Sprintf("cloud/%d", number) }

// Start starts the broker, again after Kill, and waits until it takes connections.
func (r *RabbitMQ) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if r.broker, err = r.launch(filepath.Join(r.programs, "rabbitmq-server")); err != nil {
		return err
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if err = r.greet(ctx); err == nil {
			return nil
		}
		select {
		case <-r.broker.exited:
			return fmt.Errorf("the broker ended while starting:\n%s", r.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the broker doesn't answer: %w:\n%s", err, r.logTail())
		case <-again.C:
		}
	}
}

// greet sees whether the broker answers a protocol header (AMQP 0-9-1, 4.2.2): it opens its port when all else is up, and since 4.3 that
// for TLS noticeably later.
func (r *RabbitMQ) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if r.tls != nil {
		encrypted, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.tlsPort)))
		if err != nil {
			return err
		}
		if err := encrypted.Close(); err != nil {
			return err
		}
	}
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", r.Address())
	if err != nil {
		return err
	}
	defer connection.Close()
	defer context.AfterFunc(ctx, func() { _ = connection.Close() })()
	if _, err = connection.Write([]byte("AMQP\x00\x00\x09\x01")); err == nil {
		_, err = connection.Read(make([]byte, 1))
	}
	return err
}

// Address is where the broker listens, as host:port.
func (r *RabbitMQ) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL is the transport_url of a virtual host.
func (r *RabbitMQ) URL(virtualHost string) string {
	return fmt.Sprintf("rabbit://%s:%s@%s/%s", rabbitUser, url.QueryEscape(rabbitPassword), r.Address(), url.PathEscape(virtualHost))
}

// TLSAddress is where the broker listens for TLS, as host:port.
func (r *RabbitMQ) TLSAddress() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.tlsPort)) }

// User is who may do everything.
func (r *RabbitMQ) User() string { return rabbitUser }

// VirtualHost returns the name of one that nobody has used yet.
func (r *RabbitMQ) VirtualHost(t testing.TB) string {
	t.Helper()
	number := int(r.taken.Add(1)) - 1
	if number >= rabbitHosts {
		t.Fatalf("more than %d virtual hosts were asked for", rabbitHosts)
	}
	return virtualHost(number)
}

// Control runs rabbitmqctl, and returns what it prints.
func (r *RabbitMQ) Control(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	command := r.command(ctx, filepath.Join(r.programs, "rabbitmqctl"), append([]string{"-q"}, args...)...)
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %v: %w: %s", args, err, tail(out))
	}
	return string(out), nil
}

// Kill ends the broker as a crash does.
func (r *RabbitMQ) Kill() error { return r.broker.end(syscall.SIGKILL) }

// Shutdown ends the broker in order. Start starts it again.
func (r *RabbitMQ) Shutdown() error { return r.broker.end(syscall.SIGTERM) }

// Stop ends everything and removes it.
func (r *RabbitMQ) Stop() error {
	return errors.Join(r.broker.end(syscall.SIGKILL), r.mapper.end(syscall.SIGKILL), remove(r.folder))
}

func (r *RabbitMQ) path(name string) string { return filepath.Join(r.folder, name) }

func (r *RabbitMQ) logTail() []byte {
	log, err := os.ReadFile(r.path("log"))
	if err != nil {
		return []byte(err.Error())
	}
	return tail(log)
}

func (r *RabbitMQ) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = r.folder
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + r.folder, "TMPDIR=" + r.folder,
		"RABBITMQ_NODENAME=" + r.node(), "RABBITMQ_CONFIG_FILE=" + r.path("rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE=" + r.path("env.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + r.path("plugins"),
		"RABBITMQ_MNESIA_BASE=" + r.path("mnesia"), "RABBITMQ_LOG_BASE=" + r.folder, "RABBITMQ_LOGS=-",
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", r.dist), fmt.Sprintf("ERL_EPMD_PORT=%d", r.mapped), "ERL_EPMD_ADDRESS=127.0.0.1",
		// Then the script becomes the broker, and does not outlive a test that is killed.
		"RUNNING_UNDER_SYSTEMD=true",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return c
}

func (r *RabbitMQ) launch(name string, args ...string) (*process, error) {
	log, err := os.OpenFile(r.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := r.command(context.Background(), name, args...)
	command.Stdout, command.Stderr = log, log
	return begin(command)
}

// begin starts a program that has a process group of its own.
func begin(command *exec.Cmd) (*process, error) {
	p := &process{command: command, exited: make(chan struct{})}
	if err := command.Start(); err != nil {
		return nil, err
	}
	go func() {
		// How it ended doesn't matter: it is killed on purpose.
		_ = command.Wait()
		close(p.exited)
	}()
	return p, nil
}

// end signals the process and its children, and waits for the first to end.
func (p *process) end(signal syscall.Signal) error {
	if p == nil {
		return nil
	}
	if err := syscall.Kill(-p.command.Process.Pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("%s didn't end within %s", p.command.Path, stopTimeout)
	}
}
