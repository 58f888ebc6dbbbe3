// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

const (
	// checkTimeout bounds one check.
	checkTimeout = 45 * time.Second
	// tolerableSkew is how wrong a clock may be. Muster begins certificates a
	// little in the past for such clocks.
	tolerableSkew = time.Minute
	// leastSpace is what the folders that the agent writes to should have free.
	leastSpace = 4 << 20
)

var doctorCommand = command{
	name: "doctor", short: "Find out what is wrong, and what to do",
	long: `Checks one thing after the other: the clock, the disk, the metadata, the way to
Muster, sshd and its files, and the agent itself. It changes nothing, and may run
beside the agent. Run it as root.

Each line begins with ok or WRONG, or with NOTE if the image has set something
that Muster leaves alone. Fails if something is wrong.`,
	examples: []string{"sudo muster-agent doctor"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		at := placeFlags(set, true)
		return func(ctx context.Context) error { return p.doctor(ctx, at) }
	},
}

// doctor is what the checks find out, for those after them.
type doctor struct {
	at     *place
	found  *metadata.Instance
	status *agent.Status
	client *muster.Client
}

// check is one thing that may be wrong. It returns what is well, or what is
// wrong and what to do.
type check struct {
	name string
	do   func(context.Context) (string, error)
}

// errSkipped: what a check needs is not there, which was already said.
var errSkipped = errors.New("not checked, since that needs what is wrong above")

func (p *program) doctor(ctx context.Context, at *place) error {
	if os.Geteuid() != 0 {
		fmt.Fprintln(p.stderr, "muster-agent: not run as root: some checks will fail for that alone")
	}
	d := &doctor{at: at}
	wrong := false
	for _, c := range d.checks() {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		text, err := c.do(ctx)
		cancel()
		mark := "ok   "
		if err != nil {
			mark, text, wrong = "WRONG", err.Error(), true
		}
		fmt.Fprintf(p.stdout, "%s  %-12s %s\n", mark, c.name, text)
	}
	if d.status != nil {
		for _, warning := range d.status.Warnings {
			fmt.Fprintf(p.stdout, "NOTE   %-12s %s\n", "image", warning)
		}
	}
	if wrong {
		return errWrong
	}
	return nil
}

func (d *doctor) checks() []check {
	return []check{
		{"agent", d.agent}, {"clock", d.clock}, {"disk", d.disk}, {"metadata", d.metadata}, {"Muster", d.muster},
		{"sshd", d.sshd}, {"ports", d.ports}, {"certificates", d.certificates}, {"revocations", d.revocations}, {"accounts", d.accounts},
	}
}

func (d *doctor) agent(context.Context) (string, error) {
	status, err := agent.ReadStatus(d.at.running())
	if err != nil {
		return "", errors.New("no agent has run since this machine started: muster-agent install, or systemctl start muster-agent")
	}
	d.status = status
	if !isAgent(status.PID) {
		return "", errors.New("no agent runs; see its log (journalctl -u muster-agent, or syslog), and start it: systemctl start muster-agent")
	}
	if len(status.Problems) > 0 {
		worst := status.Problems[0]
		return "", fmt.Errorf("the agent says about %s, since %s: %s", worst.About, worst.Since.Format(time.RFC3339), worst.Text)
	}
	return fmt.Sprintf("runs as process %d", status.PID), nil
}

func (d *doctor) clock(context.Context) (string, error) {
	now := time.Now().UTC()
	if now.Year() < 2026 {
		return "", fmt.Errorf("it is not %s: set the clock, by chrony or systemd-timesyncd, or with date", now.Format(time.DateOnly))
	}
	return now.Format("2006-01-02 15:04:05 UTC"), nil
}

func (d *doctor) disk(context.Context) (string, error) {
	for _, folder := range []string{"/etc/ssh", "/var/lib"} {
		var fs syscall.Statfs_t
		path := filepath.Join(d.at.root, folder)
		if err := syscall.Statfs(path, &fs); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		const readOnly = 1 // ST_RDONLY of statvfs(3)
		switch free := fs.Bavail * uint64(fs.Bsize); {
		case fs.Flags&readOnly != 0:
			return "", fmt.Errorf("%s is read-only: mount it for writing (mount -o remount,rw), and see dmesg for why it became so", path)
		case free < leastSpace:
			return "", fmt.Errorf("the disk of %s has only %d KiB free: make room", path, free>>10)
		}
	}
	return "/etc/ssh and /var/lib can be written to", nil
}

func (d *doctor) metadata(ctx context.Context) (string, error) {
	finder := metadata.New(metadata.Config{Root: d.at.root, Runner: files.Programs{}, Addresses: d.at.addresses()})
	found, err := finder.FindCurrent(ctx)
	switch {
	case errors.Is(err, metadata.ErrNoMuster):
		return "", fmt.Errorf("%w: ask the operator whether nova.conf has Muster in vendordata_dynamic_targets, "+
			"and what nova-api's log says of it", err)
	case err != nil:
		return "", fmt.Errorf("%w: see that the network is up, and that 169.254.169.254 can be reached or there is a config drive", err)
	}
	d.found = &found
	return fmt.Sprintf("instance %s, from the %s", found.ID, found.Source), nil
}

func (d *doctor) muster(ctx context.Context) (string, error) {
	identity := agent.Identity{}
	switch {
	case d.found != nil:
		identity = agent.Identity{ID: d.found.ID, ProjectID: d.found.ProjectID, Endpoint: d.found.Endpoint, CA: d.found.CA}
	case d.status != nil && d.status.Endpoint != "":
		identity = agent.Identity{ID: d.status.InstanceID, ProjectID: d.status.ProjectID, Endpoint: d.status.Endpoint}
	default:
		return "", errSkipped
	}
	client, err := connect(identity)
	if err != nil {
		return "", err
	}
	d.client = client
	_, err = client.RevokedKeys(ctx, "", 0)
	skew := client.Skew()
	switch {
	case muster.Refused(err, http.StatusNotFound):
		return "", fmt.Errorf("%s answers, but does not know project %s", identity.Endpoint, identity.ProjectID)
	case err != nil:
		return "", fmt.Errorf("%w: see that the name resolves, that the port is open from here, and that the certificate is good (api_ca)", err)
	case skew.Abs() > tolerableSkew:
		return "", fmt.Errorf("this clock is %v ahead of Muster's: set it, by chrony or systemd-timesyncd", skew)
	case !client.Encrypted():
		return fmt.Sprintf("%s answers; it should be https, tell the operator", identity.Endpoint), nil
	}
	return identity.Endpoint + " answers", nil
}

func (d *doctor) sshd(ctx context.Context) (string, error) {
	if _, err := d.at.programs().Run(ctx, nil, "sshd", "-t"); err != nil {
		return "", fmt.Errorf("sshd would not start: %w", err)
	}
	inspector := sshd.Inspector{Runner: d.at.programs(), Read: func(path string) ([]byte, error) {
		return os.ReadFile(filepath.Join(d.at.root, path))
	}}
	accounts := inspector.Accounts()
	found, err := inspector.Inspect(ctx, accounts)
	if err != nil {
		return "", err
	}
	if err := found.Err(); err != nil {
		return "", err
	}
	if !slices.ContainsFunc(found.Settings["hostcertificate"], func(file string) bool { return filepath.Dir(file) == sshd.Folder }) {
		return "", errors.New("sshd shows no host certificate of Muster's")
	}
	return "its configuration is valid, and Muster's part is in force, for " + list(accounts) + ", too", nil
}

func (d *doctor) certificates(context.Context) (string, error) {
	if d.status == nil {
		return "", errSkipped
	}
	now := time.Now()
	for _, c := range d.status.Certificates {
		if !c.ValidUntil.IsZero() && c.ValidUntil.Before(now) {
			return "", fmt.Errorf("the certificate of the %s key ended %s: see above why it was not renewed", c.Key, when(c.ValidUntil, now))
		}
	}
	if len(d.status.Certificates) == 0 {
		return "", errors.New("there are none: see above why")
	}
	return fmt.Sprintf("%d, the first ends %s", len(d.status.Certificates), when(d.status.Certificates[0].ValidUntil, now)), nil
}

func (d *doctor) revocations(context.Context) (string, error) {
	raw, err := os.ReadFile(filepath.Join(d.at.root, sshd.RevokedFile))
	if err != nil {
		return "", fmt.Errorf("%w: without the file sshd refuses every login; restart the agent", err)
	}
	parsed, err := krl.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%s is damaged, and sshd refuses every login: restart the agent", sshd.RevokedFile)
	}
	if d.status != nil && time.Since(d.status.List.CheckedAt) > time.Hour {
		return "", fmt.Errorf("version %d was last confirmed %s: who was revoked since may still get in", parsed.Version,
			when(d.status.List.CheckedAt, time.Now()))
	}
	return fmt.Sprintf("version %d", parsed.Version), nil
}

func (d *doctor) accounts(context.Context) (string, error) {
	if d.status == nil {
		return "", errSkipped
	}
	passwd, err := os.ReadFile(filepath.Join(d.at.root, "/etc/passwd"))
	if err != nil {
		return "", err
	}
	for _, name := range d.status.Accounts {
		if !bytes.HasPrefix(passwd, []byte(name+":")) && !bytes.Contains(passwd, []byte("\n"+name+":")) {
			return "", fmt.Errorf("%s is missing: see the agent's log for why", name)
		}
	}
	return list(d.status.Accounts) + "; with sudo: " + strings.Join(d.status.Sudoers, ", "), nil
}
