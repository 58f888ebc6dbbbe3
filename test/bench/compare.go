// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
)

// The cloud that row compare compares with.
const (
	manyInstances = 50_000
	manyProjects  = 5_000
	manyUsers     = 4_000
	manyGrants    = 20_000
	goneInstances = 100 // that Nova no longer has
)

// comparison measures one whole comparison with a large cloud in which little has changed. It is the first that sees the instances, so all of
// their addresses are recorded.
func comparison(ctx context.Context, b *bench) (measured []measure, err error) {
	large, err := b.newLargeCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, large.stop()) }()
	s, err := b.newSite(ctx, "sqlite", func(s *site) {
		s.cloud, s.sections = large.cloud, "[converge]\ncalls_per_second = 1000\ninterval = 7d\n[neutron]\nenabled = true\n"
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return large.compare(ctx, s)
}

// largeCloud is a cloud with all that it has.
type largeCloud struct {
	cloud                      *devcloud.Cloud
	stop                       func() error
	instances, projects, users []string
	grants                     [][2]string // user and project
	admin                      string      // a token
}

func (b *bench) newLargeCloud(ctx context.Context) (*largeCloud, error) {
	cloud, err := devcloud.New(devcloud.Config{})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- cloud.Run(running) }()
	l := &largeCloud{cloud: cloud, stop: func() error { cancel(); return <-done }}
	if err := l.fill(ctx); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

func (l *largeCloud) fill(ctx context.Context) (err error) {
	identity := l.cloud.Identity
	if l.admin, err = identity.Token("admin", identity.Password("admin"), "admin"); err != nil {
		return err
	}
	for n := range manyProjects {
		id, err := identity.CreateProject(fmt.Sprint("project", n))
		if err != nil {
			return err
		}
		l.projects = append(l.projects, id)
	}
	for n := range manyUsers {
		id, err := identity.CreateUser(fmt.Sprint("user", n), "secret")
		if err != nil {
			return err
		}
		l.users = append(l.users, id)
	}
	for n := range manyGrants {
		user, project := l.users[n%manyUsers], l.projects[(n*7+n/manyUsers)%manyProjects]
		if err := identity.Grant(user, project, "member"); err != nil {
			return err
		}
		l.grants = append(l.grants, [2]string{user, project})
	}
	for n := range manyInstances {
		id, err := l.cloud.Compute.Boot(ctx, compute.Server{Name: fmt.Sprint("vm", n), ProjectID: l.projects[n%manyProjects], UserID: l.users[n%manyUsers]})
		if err != nil {
			return err
		}
		l.instances = append(l.instances, id)
	}
	return nil
}

func (l *largeCloud) compare(ctx context.Context, s *site) ([]measure, error) {
	if err := l.settled(ctx, s); err != nil {
		return nil, err
	}
	if err := l.record(ctx, s); err != nil {
		return nil, err
	}
	idle, err := s.resident()
	if err != nil {
		return nil, err
	}
	if err := s.clearPeak(); err != nil {
		return nil, err
	}
	before, err := s.cloudCalls(ctx)
	if err != nil {
		return nil, err
	}
	cpu, err := s.process.cpu()
	if err != nil {
		return nil, err
	}
	started := time.Now()
	if _, err := s.call(ctx, s.request("POST", "/v1/reconcile", l.admin, map[string]bool{"dry_run": false}), http.StatusOK); err != nil {
		return nil, err
	}
	took := time.Since(started)
	after, err := s.cloudCalls(ctx)
	if err != nil {
		return nil, err
	}
	cpuAfter, err := s.process.cpu()
	if err != nil {
		return nil, err
	}
	peak, err := s.peak()
	if err != nil {
		return nil, err
	}
	left, err := s.sum(ctx, "muster_converge_queue_keys")
	return []measure{
		plain(fmt.Sprintf("%d instances, %d projects, %d grants: time", manyInstances, manyProjects, manyGrants), took.Seconds(), "s"),
		plain("server CPU", (cpuAfter - cpu).Seconds(), "s"),
		plain("memory before", idle/megabyte, "MB"),
		atMost("memory at its peak", peak/megabyte, "MB", 250),
		atMost(fmt.Sprintf("calls to Keystone, Nova and Neutron, for %d instances that are gone", goneInstances), after-before, "", 1000),
		plain("keys left in the queue", left, ""),
	}, err
}

// settled waits until Muster has made its authorities, as it does when it first sees the projects.
func (l *largeCloud) settled(ctx context.Context, s *site) error {
	for deadline := time.Now().Add(15 * time.Minute); time.Now().Before(deadline); {
		done, err := s.sum(ctx, "muster_converge_comparisons_total")
		if err != nil || done > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("the first comparison did not end")
}

// record gives each instance an identity and each grant a certificate, by SQL.
func (l *largeCloud) record(ctx context.Context, s *site) error {
	now := time.Now()
	later := now.Add(24 * time.Hour).UnixMicro()
	return s.change(ctx, func(tx *sql.Tx) error {
		for n, id := range l.instances {
			if n < goneInstances {
				if err := l.cloud.Compute.Delete(id); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO instance (id, project_id, hostname, state, created_at, deleted_at, token_hash, token_sealed,
				token_created_at, token_expires_at, token_used_at, token_fingerprint) VALUES (?, ?, ?, 'live', ?, 0, ?, ?, ?, ?, ?, 'SHA256:x')`,
				undashed(id), l.projects[n%manyProjects], fmt.Sprint("vm", n), now.UnixMicro(), newID(), []byte{1}, now.UnixMicro(), later, now.UnixMicro())
			if err != nil {
				return err
			}
		}
		for n, grant := range l.grants {
			_, err := tx.ExecContext(ctx, `INSERT INTO user_cert (serial, project_id, user_id, user_name, principals, fingerprint, md5, key_id,
				authority_key_id, cert, created_at, expires_at, revoked_at, profile)
				SELECT ?, ?, ?, 'user', '["member"]', ?, ?, 'user', id, 'x', ?, ?, 0, '' FROM authority_key WHERE project_id = ? AND role = 'user'`,
				n+1, grant[1], grant[0], fmt.Sprint("SHA256:", n), fmt.Sprint("MD5:", n), now.UnixMicro(), later, grant[1])
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// cloudCalls counts requests to Keystone, Nova and Neutron.
func (s *site) cloudCalls(ctx context.Context) (all float64, err error) {
	for _, service := range []string{"keystone", "nova", "neutron"} {
		calls, err := s.sum(ctx, "muster_"+service+"_request_seconds_count")
		if err != nil {
			return 0, err
		}
		all += calls
	}
	return all, nil
}

// clearPeak has the process's peak begin anew (proc_pid_clear_refs(5)).
func (s *site) clearPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.process), []byte("5"), 0)
}

// peak is the most memory that the process has held, in bytes.
func (p process) peak() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	if err != nil {
		return 0, err
	}
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	line, _, _ := bytes.Cut(after, []byte("kB"))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	return float64(n) * 1024, err
}

func undashed(id string) string { return string(bytes.ReplaceAll([]byte(id), []byte("-"), nil)) }
