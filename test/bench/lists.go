// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/sshca/krl"
)

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// randomSerials are spread over all that a serial can be, as in an authority
// that draws them by lot. They are sorted, and not 0.
func randomSerials(n int) []uint64 {
	r := rand.New(rand.NewPCG(1, 2))
	serials := make([]uint64, n)
	for i := range serials {
		serials[i] = 1 + r.Uint64N(1<<53-1)
	}
	slices.Sort(serials)
	return slices.Compact(serials)
}

// denseSerials are as Muster numbers: consecutive up to the last, of which one
// in three is revoked, without order.
func denseSerials(n int, last uint64) []uint64 {
	r := rand.New(rand.NewPCG(3, 4))
	serials := make([]uint64, 0, n)
	for serial := last; len(serials) < n; serial-- {
		if r.IntN(3) == 0 {
			serials = append(serials, serial)
		}
	}
	slices.Reverse(serials)
	return serials
}

// krlBuild measures the writing of a list from serials in memory, in this
// process, and its size beside ssh-keygen's.
func krlBuild(ctx context.Context, b *bench) ([]measure, error) {
	lines, err := newKeys(1)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(lines[0]))
	if err != nil {
		return nil, err
	}
	small := randomSerials(100_000)
	tenth, size, err := buildTime(key, small)
	if err != nil {
		return nil, err
	}
	full, _, err := buildTime(key, randomSerials(1_000_000))
	if err != nil {
		return nil, err
	}
	measured := []measure{
		atMost("100,000 random serials", milliseconds(tenth), "ms", 10),
		atMost("1,000,000 random serials", milliseconds(full), "ms", 150),
	}
	theirs, err := b.sshKeygenSize(ctx, lines[0], small)
	if errors.Is(err, exec.ErrNotFound) {
		return append(measured, plain("size of 100,000", float64(size), "bytes")), nil
	}
	return append(measured, atMost("size of 100,000, and ssh-keygen's", float64(size), "bytes", theirs)), err
}

// buildTime is the middle of several builds.
func buildTime(key ssh.PublicKey, serials []uint64) (time.Duration, int, error) {
	const builds = 9
	times := make([]time.Duration, builds)
	size := 0
	for i := range times {
		list := krl.List{Version: 1, GeneratedAt: time.Unix(1, 0), Authorities: []krl.Authority{{Key: key, Serials: serials}}}
		started := time.Now()
		raw, err := list.Marshal()
		if err != nil {
			return 0, 0, err
		}
		times[i], size = time.Since(started), len(raw)
	}
	slices.Sort(times)
	return times[builds/2], size, nil
}

// sshKeygenSize is how large a list ssh-keygen writes.
func (b *bench) sshKeygenSize(ctx context.Context, ca string, serials []uint64) (float64, error) {
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		return 0, err
	}
	key, spec, out := filepath.Join(b.folder, "ca.pub"), filepath.Join(b.folder, "spec"), filepath.Join(b.folder, "krl")
	var text strings.Builder
	for _, serial := range serials {
		fmt.Fprintf(&text, "serial: %d\n", serial)
	}
	if err := errors.Join(os.WriteFile(key, []byte(ca+"\n"), 0o600), os.WriteFile(spec, []byte(text.String()), 0o600)); err != nil {
		return 0, err
	}
	if message, err := exec.CommandContext(ctx, program, "-k", "-f", out, "-s", key, spec).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("ssh-keygen: %w: %s", err, message)
	}
	info, err := os.Stat(out)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()), nil
}

// krlServe measures lists of 100,000 serials: full and unchanged.
func krlServe(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		dense, err := s.serveList(ctx, b.persons[0], "Muster's serials", denseSerials(100_000, 1<<41))
		if err != nil {
			return nil, err
		}
		random, err := s.serveList(ctx, b.persons[1], "random serials", randomSerials(100_000))
		if err != nil {
			return nil, err
		}
		random[0].Goal, random[2].Goal = 0, 0 // the goals are for lists as they are
		return append(dense, random...), nil
	})
}

func (s *site) serveList(ctx context.Context, p person, name string, serials []uint64) ([]measure, error) {
	etag, size, err := s.fillList(ctx, p, serials)
	if err != nil {
		return nil, err
	}
	full := load{clients: clients, requests: [][]byte{s.listRequest(p.project, "")}, repeat: s.bench.requests, status: http.StatusOK}
	if size > 100_000 {
		full.repeat = max(s.bench.requests/10, 1)
	}
	fullTime, err := s.measure(ctx, "krl-full", full)
	if err != nil {
		return nil, err
	}
	same := load{clients: clients, requests: [][]byte{s.listRequest(p.project, etag)}, repeat: 3 * s.bench.requests, status: http.StatusNotModified}
	sameTime, err := s.measure(ctx, "krl-304", same)
	if err != nil {
		return nil, err
	}
	return []measure{
		atLeast(name+", full, raw: rate", fullTime.rate(), "/s", 3000),
		plain(name+", full, raw: server CPU each", fullTime.perRequest(), "ms"),
		atLeast(name+", 304: rate", sameTime.rate(), "/s", 20_000),
		plain(name+", 304: server CPU each", sameTime.perRequest(), "ms"),
		plain(name+": size", float64(size)/1000, "kB"),
	}, nil
}

// listRequest asks for a list; with a tag, for one that differs.
func (s *site) listRequest(project, etag string) []byte {
	header := map[string]string{"Accept": "application/octet-stream"}
	if etag != "" {
		header["If-None-Match"] = etag
	}
	return s.requestWith("GET", "/noauth/revokeduserkeys/"+project, header, nil)
}

// fillList makes a project's authority and revokes serials by the database, before
// anybody asks for the list. It returns the list's ETag and size.
func (s *site) fillList(ctx context.Context, p person, serials []uint64) (etag string, size int, err error) {
	if _, err := s.issueOne(ctx, p); err != nil {
		return "", 0, err
	}
	if err := s.insertRevocations(ctx, p.project, serials); err != nil {
		return "", 0, err
	}
	c, err := dial(ctx, s.address, nil)
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	status, err := c.do(s.listRequest(p.project, ""))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("list: status %d: %.300s", status, c.body)
	}
	return c.etag, len(c.body), err
}

// issueOne issues a certificate for a fresh key and returns its serial.
func (s *site) issueOne(ctx context.Context, p person) (uint64, error) {
	keys, err := newKeys(1)
	if err != nil {
		return 0, err
	}
	body, err := s.call(ctx, s.request("POST", "/v1/usercerts", p.token,
		map[string]string{"user_id": p.user, "auth_id": p.project, "pub_key": keys[0]}), http.StatusCreated)
	if err != nil {
		return 0, err
	}
	var cert struct {
		Serial uint64 `json:"serial"`
	}
	err = json.Unmarshal(body, &cert)
	return cert.Serial, err
}

// krlVisible measures how long after a revocation's answer a list of a million has it.
func krlVisible(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		// Those that are revoked below come right after these: the list has no
		// part that they leave alone.
		last, err := s.issueOne(ctx, b.persons[0])
		if err != nil {
			return nil, err
		}
		dense, err := s.visible(ctx, "Muster's serials", b.persons[0], denseSerials(b.records, last))
		if err != nil {
			return nil, err
		}
		random, err := s.visible(ctx, "random serials", b.persons[1], randomSerials(b.records))
		return slices.Concat(dense, random), err
	})
}

// visible measures the middle of several revocations, and the server's CPU time for each with all that belongs to it: the certificate, its
// revocation and the list.
func (s *site) visible(ctx context.Context, name string, p person, serials []uint64) ([]measure, error) {
	const revocations = 9
	etag, _, err := s.fillList(ctx, p, serials)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, s.address, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	before, err := s.cpu()
	if err != nil {
		return nil, err
	}
	times := make([]time.Duration, revocations)
	err = s.profiled("krl-visible "+name, func() error {
		for i := range times {
			if times[i], err = s.oneMore(ctx, c, p, etag); err != nil {
				return err
			}
			etag = c.etag
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	after, err := s.cpu()
	slices.Sort(times)
	return []measure{
		atMost(name+": one more is in the next GET after", milliseconds(times[revocations/2]), "ms", 50),
		plain(name+": server CPU for it", milliseconds(after-before)/revocations, "ms"),
	}, err
}

// oneMore issues a certificate, revokes it, and returns how long it then takes until the list differs from the one of the tag.
func (s *site) oneMore(ctx context.Context, c *connection, p person, etag string) (time.Duration, error) {
	serial, err := s.issueOne(ctx, p)
	if err != nil {
		return 0, err
	}
	revoked := s.request("POST", "/v1/revokeduserkeys/"+p.project, p.token, map[string]uint64{"serial": serial})
	if _, err := s.call(ctx, revoked, http.StatusOK); err != nil {
		return 0, err
	}
	started := time.Now()
	for status := http.StatusNotModified; status == http.StatusNotModified; {
		if status, err = c.do(s.listRequest(p.project, etag)); err != nil {
			return 0, err
		}
	}
	return time.Since(started), nil
}
