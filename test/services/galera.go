// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
)

// galeraNodes is how many nodes a cluster has.
const galeraNodes = 3

// Galera is a cluster of three MariaDB servers of which each has all data and lets one write.
type Galera struct {
	nodes []*Server
	proxy net.Listener
	turn  atomic.Int64
}

// galeraNode is one of them.
type galeraNode struct {
	mariaDB
	scripts string // the folder with those that copy the data to a node that joins
}

// prepare makes, too, a copy of the scripts that the server's account may read.
func (n galeraNode) prepare(ctx context.Context, s *Server) error {
	if err := os.Mkdir(s.path("scripts"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"wsrep_sst_rsync", "wsrep_sst_common"} {
		script, err := os.ReadFile(filepath.Join(n.scripts, name))
		if err != nil {
			return err
		}
		path := filepath.Join(s.path("scripts"), name)
		if err := os.WriteFile(path, script, 0o755); err != nil {
			return err
		}
	}
	return n.mariaDB.prepare(ctx, s)
}

func (n galeraNode) program(s *Server) (string, []string) {
	name, args := n.mariaDB.program(s)
	return "/usr/bin/env", append([]string{"PATH=" + s.path("scripts") + ":/usr/sbin:/usr/bin:/sbin:/bin", name}, args...)
}

// StartGalera starts a cluster. ErrMissing if it isn't installed (scripts/services-install.sh galera).
func StartGalera(ctx context.Context) (*Galera, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	scripts := filepath.Join(cache, "muster-test", "mariadb-server", "usr", "bin")
	provider, err := newest("/usr/lib/galera/libgalera_smm.so")
	if err == nil {
		_, err = newest(filepath.Join(scripts, "wsrep_sst_rsync"))
	}
	if err != nil {
		return nil, fmt.Errorf("Galera: %w", err)
	}
	g := new(Galera)
	members := ""
	for range galeraNodes {
		var ports [3]int
		for i := range ports {
			if ports[i], err = Port(); err != nil {
				return nil, errors.Join(err, g.Stop())
			}
		}
		node, err := startGaleraNode(ctx, provider, scripts, members, ports)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("Galera: %w", err), g.Stop())
		}
		g.nodes = append(g.nodes, node)
		if members != "" {
			members += ","
		}
		members += "127.0.0.1:" + strconv.Itoa(ports[0])
	}
	if g.proxy, err = net.Listen("unix", g.nodes[0].path("proxy")); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	go g.serve()
	return g, nil
}

// startGaleraNode starts a node that joins the members, of which there are none yet for the first. The ports are for the members, and for two
// ways to get the data.
func startGaleraNode(ctx context.Context, provider, scripts, members string, ports [3]int) (*Server, error) {
	m, a, err := mariaDBPrograms()
	if err != nil {
		return nil, err
	}
	address := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	m.options = []string{
		"--max-connections=500", "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--wsrep-on=ON", "--wsrep-provider=" + provider,
		"--wsrep-cluster-name=muster", "--wsrep-cluster-address=gcomm://" + members, "--wsrep-node-address=127.0.0.1",
		"--wsrep-sst-method=rsync", "--wsrep-sst-receive-address=" + address(1), "--wsrep-slave-threads=2",
		// A machine with much else to do answers late; that is no reason to leave the cluster.
		"--wsrep-provider-options=gmcast.listen_addr=tcp://" + address(0) + ";ist.recv_addr=" + address(2) +
			";gcache.size=64M;evs.suspect_timeout=PT1M;evs.inactive_timeout=PT2M;evs.install_timeout=PT2M",
	}
	return start(ctx, galeraNode{m, scripts}, a)
}

// serve leads each connection to the next of two nodes.
func (g *Galera) serve() {
	for {
		client, err := g.proxy.Accept()
		if err != nil {
			return // Stop closes it
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("unix", g.nodes[g.turn.Add(1)%2].path("socket"))
			if err != nil {
				return // the client sees that
			}
			defer server.Close()
			ended := make(chan struct{}, 2)
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() {
					// How the connection ends doesn't matter here.
					_, _ = io.Copy(way[0], way[1])
					ended <- struct{}{}
				}()
			}
			<-ended
		}()
	}
}

// Database makes a new, empty database, and returns its URL at each of the nodes and at a proxy that leads one connection to the first of
// them and the next to the second.
func (g *Galera) Database(ctx context.Context, name string) (nodes []string, both string, err error) {
	if _, err := g.nodes[0].Database(ctx, name); err != nil {
		return nil, "", err
	}
	for _, n := range g.nodes {
		// The node waits until it has what was committed on the others.
		if err := n.kind.execute(ctx, n, "SET SESSION wsrep_sync_wait = 15; SHOW DATABASES; USE "+name+";"); err != nil {
			return nil, "", err
		}
		nodes = append(nodes, n.kind.url(n, name))
	}
	return nodes, fmt.Sprintf("mysql+pymysql://root@localhost/%s?charset=utf8&unix_socket=%s", name, g.proxy.Addr()), nil
}

// Stop ends the cluster, the node that joined last before the others.
func (g *Galera) Stop() error {
	var all error
	if g.proxy != nil {
		all = g.proxy.Close()
	}
	for _, n := range slices.Backward(g.nodes) {
		all = errors.Join(all, n.Stop())
	}
	return all
}
