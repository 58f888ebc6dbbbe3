// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/outage"
	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	// listGrace is how long an entry stays after its certificate has expired,
	// for hosts whose clocks are behind.
	listGrace = time.Hour
	// listStep is the raster at which expired entries leave. All replicas use
	// the same, so that they build the same bytes and ETags.
	listStep = 10 * time.Minute
	// revocationPage is how many entries are read at once.
	revocationPage = 10_000
)

// Snapshot is a revocation list as it was built. It is never changed.
type Snapshot struct {
	Version uint64 // rises with each revocation in the project
	Raw     []byte // OpenSSH's format (PROTOCOL.krl)
	ETag    string // identifies Raw, quoted as HTTP wants it

	cutoff  time.Time // entries that expired before it have left
	commits uint64    // the commits that it holds, at least
	base64  func() string
	sign    func(context.Context) (signature, error)
	signed  atomic.Pointer[string]
}

// Base64 returns the list in standard base64. It is made once.
func (s *Snapshot) Base64() string { return s.base64() }

// signature is that of a list.
type signature struct {
	header string
	lasts  bool // the generation that signs made it
}

// Signature returns the project's user CA's signature of the list, as a value
// of the header [agentapi.SignatureHeader]. It is made once by the generation
// that signs.
//
// While there is none, the newest trusted generation signs, and without one the
// newest that was revoked: agents that have not heard of its end learn from
// itself that it is over; all others trust its word no more. Such a signature
// is made anew each time, since a successor may come.
func (s *Snapshot) Signature(ctx context.Context) (string, error) {
	if made := s.signed.Load(); made != nil {
		return *made, nil
	}
	made, err := s.sign(ctx)
	if err == nil && made.lasts {
		s.signed.Store(&made.header)
	}
	return made.header, err
}

// list is a project's revocation list in memory.
type list struct {
	service   *Service
	projectID string

	snapshot atomic.Pointer[Snapshot]
	wanted   atomic.Uint64 // the newest version that is known to be committed
	commits  atomic.Uint64 // of this process, which may have made versions that wanted does not tell
	waiting  atomic.Int64
	usedAt   atomic.Int64 // Unix seconds

	signing  singleflight.Group // by ETag
	building singleflight.Group // one at a time, which owns what follows
	loaded   uint64             // the version up to which entries were read
	forgot   bool               // entries, which are to be read again
	newest   time.Time          // when the newest entry was made
	revoked  map[string]*revokedByKey
	keys     map[krl.Fingerprint]int64 // key and when the entry leaves
	public   map[string]ssh.PublicKey

	mu      sync.Mutex
	changed chan struct{} // closed when the snapshot is replaced

	away outage.Outage // what it takes to build the list
}

// revokedByKey is what is revoked of one CA key's certificates.
type revokedByKey struct {
	serials krl.Set
	keyIDs  map[string]int64
}

func newList(service *Service, projectID string) *list {
	l := &list{
		service: service, projectID: projectID,
		revoked: make(map[string]*revokedByKey), keys: make(map[krl.Fingerprint]int64),
		public: make(map[string]ssh.PublicKey), changed: make(chan struct{}),
	}
	l.usedAt.Store(service.cfg.Now().Unix())
	return l
}

// current returns the snapshot, brought up to date if it is behind.
func (l *list) current(ctx context.Context) (*Snapshot, error) {
	now := l.service.cfg.Now()
	l.usedAt.Store(now.Unix())
	if snapshot := l.snapshot.Load(); l.fresh(snapshot, now) {
		return snapshot, nil
	}
	// A build that was under way already may have missed what we want; the next
	// one has not.
	for again := false; ; again = true {
		snapshot, joined, err := together(ctx, &l.building, "", func() (*Snapshot, error) { return l.rebuild(ctx, now) })
		if err != nil || !joined || again || l.fresh(snapshot, now) {
			return snapshot, err
		}
	}
}

// rebuild reads what is new and replaces the snapshot. Others wait for it too:
// it does not end with the one who began it.
func (l *list) rebuild(ctx context.Context, now time.Time) (*Snapshot, error) {
	snapshot := l.snapshot.Load()
	if l.fresh(snapshot, now) {
		return snapshot, nil
	}
	if snapshot != nil && ahead(snapshot, now) {
		l.forget()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
	defer cancel()
	commits := l.commits.Load() // before reading: what is committed later is not among them
	// Where only entries have to leave, all that is needed is here, also while the database is away.
	if l.forgot || !l.complete(snapshot) {
		if err := l.load(ctx); err != nil {
			return nil, err
		}
	}
	built, err := l.build(ctx, now)
	if err != nil {
		return nil, err
	}
	built.commits = commits
	l.publish(built)
	return built, nil
}

func (l *list) fresh(snapshot *Snapshot, now time.Time) bool {
	return l.complete(snapshot) && !snapshot.cutoff.Before(cutoff(now)) && !ahead(snapshot, now)
}

// complete tells whether a list holds all that is known to be committed.
func (l *list) complete(snapshot *Snapshot) bool {
	return snapshot != nil && snapshot.commits == l.commits.Load() && snapshot.Version >= l.wanted.Load()
}

// ahead tells that the clock ran ahead when the list was built: entries may
// have left that belong into it. One step is within the grace.
func ahead(snapshot *Snapshot, now time.Time) bool {
	return snapshot.cutoff.After(cutoff(now).Add(listStep))
}

func cutoff(now time.Time) time.Time { return now.Add(-listGrace).Truncate(listStep) }

// forget makes the next load read all entries.
func (l *list) forget() {
	l.loaded, l.forgot = 0, true
	l.revoked, l.keys = make(map[string]*revokedByKey), make(map[krl.Fingerprint]int64)
}

// load reads the entries that are new.
func (l *list) load(ctx context.Context) error {
	for {
		rows, err := l.service.cfg.Store.Revocations(ctx, l.projectID, l.loaded, revocationPage)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			l.forgot = false
			return nil
		}
		serials := make(map[string][]krl.Entry)
		for _, row := range rows {
			if err := l.add(ctx, row, serials); err != nil {
				return err
			}
		}
		for keyID, entries := range serials {
			l.of(keyID).serials.Insert(entries...)
		}
		last := rows[len(rows)-1]
		l.loaded, l.newest = last.Version, last.CreatedAt
	}
}

func (l *list) add(ctx context.Context, row store.Revocation, serials map[string][]krl.Entry) error {
	expires := krl.Never
	if !row.ExpiresAt.IsZero() {
		expires = row.ExpiresAt.Unix()
	}
	switch row.Kind {
	case store.RevokedSerial:
		serials[row.AuthorityKeyID] = append(serials[row.AuthorityKeyID], krl.Entry{Serial: row.Serial, Expires: expires})
	case store.RevokedKeyID:
		of := l.of(row.AuthorityKeyID)
		of.keyIDs[row.Value] = max(of.keyIDs[row.Value], expires)
	case store.RevokedKey:
		fingerprint, err := parseFingerprint(row.Value)
		if err != nil {
			// It names no key at all. Without the other entries, hosts would let in whom they must not.
			l.service.cfg.Logger.ErrorContext(ctx, "A revocation that names no key is left out of the list",
				"project", l.projectID, "version", row.Version, "error", err)
			return nil
		}
		l.keys[fingerprint] = max(l.keys[fingerprint], expires)
	case store.RevokedAuthorityKey:
		key, err := l.authorityKey(ctx, row.AuthorityKeyID)
		if err != nil {
			return err
		}
		l.keys[krl.FingerprintOf(key)] = krl.Never
		// The authority in memory may still sign with it, and would sign this list.
		l.service.forgetAuthority(l.projectID)
	default:
		return fmt.Errorf("revocation %d of project %s: unknown kind %q; this program is older than the record", row.Version, l.projectID, row.Kind)
	}
	return nil
}

func (l *list) of(keyID string) *revokedByKey {
	of := l.revoked[keyID]
	if of == nil {
		of = &revokedByKey{keyIDs: make(map[string]int64)}
		l.revoked[keyID] = of
	}
	return of
}

// authorityKey returns the public key of one of the project's CA generations.
func (l *list) authorityKey(ctx context.Context, keyID string) (ssh.PublicKey, error) {
	if key, ok := l.public[keyID]; ok {
		return key, nil
	}
	record, err := l.service.cfg.Store.Authority(ctx, l.projectID)
	if err != nil {
		return nil, err
	}
	for _, recorded := range record.Keys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(recorded.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("public key of CA %s: %w", recorded.ID, err)
		}
		l.public[recorded.ID] = key
	}
	key, ok := l.public[keyID]
	if !ok {
		return nil, fmt.Errorf("project %s has revocations of CA key %s, which is not recorded", l.projectID, keyID)
	}
	return key, nil
}

// build writes the list. It depends on nothing but the records and the
// cutoff, so that all replicas build the same.
func (l *list) build(ctx context.Context, now time.Time) (*Snapshot, error) {
	started := time.Now()
	out := krl.List{Version: l.loaded, GeneratedAt: l.newest, Comment: l.projectID}
	limit := cutoff(now)
	for _, keyID := range slices.Sorted(maps.Keys(l.revoked)) {
		of := l.revoked[keyID]
		of.serials.Expire(limit)
		section := krl.Authority{Serials: of.serials.Serials(), KeyIDs: unexpired(of.keyIDs, limit, strings.Compare)}
		if keyID != "" {
			key, err := l.authorityKey(ctx, keyID)
			if err != nil {
				return nil, err
			}
			section.Key = key
		}
		out.Authorities = append(out.Authorities, section)
	}
	out.Keys = unexpired(l.keys, limit, compareFingerprints)
	raw, err := out.Marshal()
	if err != nil {
		return nil, fmt.Errorf("build the revocation list of project %s: %w", l.projectID, err)
	}
	l.service.metrics.builds.Inc()
	l.service.metrics.buildTime.Observe(time.Since(started).Seconds())
	digest := sha256.Sum256(raw)
	etag := `"` + hex.EncodeToString(digest[:16]) + `"`
	return &Snapshot{
		Version: l.loaded, Raw: raw, ETag: etag, cutoff: limit,
		base64: sync.OnceValue(func() string { return base64.StdEncoding.EncodeToString(raw) }),
		sign:   func(ctx context.Context) (signature, error) { return l.sign(ctx, etag, raw) },
	}, nil
}

// sign lets the project's user CA vouch for a list. Of those that want it at
// once, one does it.
func (l *list) sign(ctx context.Context, etag string, raw []byte) (signature, error) {
	made, _, err := together(ctx, &l.signing, etag, func() (signature, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
		defer cancel()
		a, _, err := l.service.authority(ctx, Actor{}, l.projectID)
		if err != nil {
			return signature{}, err
		}
		signer := a.user.signer
		if signer == nil {
			if signer, err = l.service.formerSigner(ctx, a.record); err != nil {
				return signature{}, err
			}
		}
		header, err := agentapi.SignList(signer, raw)
		return signature{header: header, lasts: a.user.signer != nil}, err
	})
	return made, err
}

// formerSigner is a user CA that no longer issues certificates: the newest that
// is trusted, else the newest of all.
func (s *Service) formerSigner(ctx context.Context, record store.Authority) (ssh.Signer, error) {
	users := slices.DeleteFunc(slices.Clone(record.Keys), func(k store.AuthorityKey) bool { return k.Role != store.RoleUser })
	if len(users) == 0 {
		return nil, fmt.Errorf("project %s has no user CA", record.ProjectID)
	}
	newest := slices.MaxFunc(users, func(a, b store.AuthorityKey) int {
		if trusted := a.State == store.KeyTrusted; trusted != (b.State == store.KeyTrusted) {
			if trusted {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.Generation, b.Generation)
	})
	return s.cfg.Custody.Signer(ctx, keyBinding(newest), newest.Handle)
}

// publish replaces the snapshot and wakes who waits, if it says anything new.
func (l *list) publish(snapshot *Snapshot) {
	l.want(snapshot.Version)
	old := l.snapshot.Swap(snapshot)
	if old != nil && old.ETag == snapshot.ETag {
		return
	}
	l.mu.Lock()
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
}

func (l *list) changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// want notes that a version is committed.
func (l *list) want(version uint64) {
	for {
		known := l.wanted.Load()
		if version <= known || l.wanted.CompareAndSwap(known, version) {
			return
		}
	}
}

func (l *list) wait(n int64) {
	l.waiting.Add(n)
	l.usedAt.Store(l.service.cfg.Now().Unix())
}

func (l *list) behindWaiters(now time.Time) bool {
	return l.waiting.Load() > 0 && !l.fresh(l.snapshot.Load(), now)
}

func (l *list) idleSince(now time.Time) time.Duration {
	if l.waiting.Load() > 0 {
		return 0
	}
	return now.Sub(time.Unix(l.usedAt.Load(), 0))
}

// unexpired drops what expired before the limit and returns the rest, sorted.
func unexpired[K comparable](entries map[K]int64, limit time.Time, compare func(a, b K) int) []K {
	maps.DeleteFunc(entries, func(_ K, expires int64) bool { return expires < limit.Unix() })
	return slices.SortedFunc(maps.Keys(entries), compare)
}

func compareFingerprints(a, b krl.Fingerprint) int { return bytes.Compare(a[:], b[:]) }

// parseFingerprint reads the form that ssh-keygen -l writes.
func parseFingerprint(text string) (fingerprint krl.Fingerprint, err error) {
	digest, ok := strings.CutPrefix(text, "SHA256:")
	if !ok {
		return fingerprint, fmt.Errorf("%q is no SHA-256 fingerprint", text)
	}
	raw, err := base64.RawStdEncoding.DecodeString(digest)
	if err != nil || len(raw) != len(fingerprint) {
		return fingerprint, fmt.Errorf("%q is no SHA-256 fingerprint", text)
	}
	return krl.Fingerprint(raw), nil
}
