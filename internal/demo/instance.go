// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/uuid"
)

// vendordata is what an instance reads of its metadata.
type vendordata struct {
	Token       string `json:"token"`
	UserCA      string `json:"auth_pub_key_user"`
	APIEndpoint string `json:"api_endpoint"`
	FQDN        string `json:"hostname"`
	Realm       string `json:"krb_realm"`
	OTP         string `json:"ipaotp"` // to join FreeIPA with; empty after that
	Refusal     string `json:"ipa_error"`
}

// hostCert is the answer to an instance that asks for its certificate.
type hostCert struct {
	Cert     string
	Hostname string
	Serial   uint64
}

// instance is what goes on inside of the instance: muster-agent, and its sshd.
//
// It is also the machine that the agent sets up. The agent's own kind makes
// accounts and changes /etc, as root, on a machine that is the agent's alone;
// this one has a folder, and one account.
type instance struct {
	id, projectID string // 32 hexadecimal digits
	dir           string
	key           string // the public host key, one line
	metadata      vendordata
	server        *openssh.Server
	stopAgent     context.CancelFunc
	lists         chan struct{} // gets a value after the list of revoked keys has changed
	setUp         chan struct{} // gets a value after the agent has set everything up
	joined        chan struct{} // closed when the instance has joined FreeIPA
}

func (i *instance) path(name string) string { return filepath.Join(i.dir, name) }

// readMetadata reads vendor_data2.json as an instance does, through what
// Neutron's metadata proxy adds to the request.
func (s *story) readMetadata(ctx context.Context, instanceID, projectID string) (vendordata, error) {
	id := uuid.Dashed(instanceID)
	var answers struct{ Muster vendordata }
	_, err := s.call(ctx, request{method: "GET", url: s.env.MetadataURL + "/openstack/latest/vendor_data2.json", want: http.StatusOK,
		header: map[string]string{
			"X-Instance-ID": id, "X-Tenant-ID": projectID, "X-Forwarded-For": "192.0.2.10",
			"X-Instance-ID-Signature": s.env.Cloud.Compute.Sign(id),
		}}, &answers)
	if err == nil && (answers.Muster.Token == "" || answers.Muster.UserCA == "" || answers.Muster.APIEndpoint == "") {
		err = fmt.Errorf("the instance's vendor_data2.json lacks what Muster has to say")
	}
	return answers.Muster, err
}

// askHostCert asks for a certificate as a boot script does: without a Keystone
// token.
func (s *story) askHostCert(ctx context.Context, publicKey string, want int) (hostCert, error) {
	var cert hostCert
	_, err := s.call(ctx, request{method: "POST", url: s.instance.metadata.APIEndpoint + "/noauth/hostcerts", want: want,
		body: map[string]string{"token_id": s.instance.metadata.Token, "host_id": s.instance.id, "pub_key": publicKey}}, &cert)
	return cert, err
}

// startAgent starts the agent. It gets Muster's part of the metadata as they
// were when the instance booted.
func (s *story) startAgent(ctx context.Context) error {
	i := s.instance
	dir := i.path("agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Finder: finder{ID: i.id, ProjectID: i.projectID, Source: "demo", Token: i.metadata.Token, Endpoint: i.metadata.APIEndpoint,
			Joining: metadata.Joining{FQDN: i.metadata.FQDN, Realm: i.metadata.Realm, OTP: i.metadata.OTP}},
		Machine: i,
		Connect: func(identity agent.Identity) (agent.Muster, error) {
			return muster.New(muster.Config{
				Endpoint: identity.Endpoint, HostID: identity.ID, ProjectID: identity.ProjectID, Transport: s.http.Transport,
			})
		},
		StateDir: dir, RunDir: dir, Version: s.cfg.Version, Log: s.cfg.Logger,
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stopAgent = stop
	s.running.Go(func() { _ = a.Run(running) }) // it ends with its context only
	return nil
}

// awaitSetUp returns when the agent has set everything up, or what keeps it.
func (i *instance) awaitSetUp(ctx context.Context, deadline time.Duration) error {
	select {
	case <-i.setUp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
	}
	reasons := []error{fmt.Errorf("the agent has not set the instance up after %v", deadline)}
	if status, err := agent.ReadStatus(i.path("agent")); err == nil {
		for _, problem := range status.Problems {
			reasons = append(reasons, errors.New(problem.Text))
		}
	}
	return errors.Join(reasons...)
}

// finder knows an instance's metadata.
type finder metadata.Instance

// Find implements agent.Finder.
func (f finder) Find(context.Context) (metadata.Instance, error) { return metadata.Instance(f), nil }

// FindCurrent implements agent.Finder.
func (f finder) FindCurrent(context.Context) (metadata.Instance, error) {
	return metadata.Instance(f), nil
}

// HostKeys implements agent.Machine.
func (i *instance) HostKeys(context.Context) ([]agent.HostKey, error) {
	return []agent.HostKey{{Path: i.path("host"), Public: i.key}}, nil
}

// Signer implements agent.Machine.
func (i *instance) Signer(key agent.HostKey) (ssh.Signer, error) {
	private, err := os.ReadFile(key.Path)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(private)
}

// Configure implements agent.Machine: it writes the files that sshd reads.
func (i *instance) Configure(_ context.Context, want agent.Want) (bool, error) {
	cert, authorities := want.HostCerts[i.path("host")], strings.Join(want.State.UserCAs, "\n")
	for name, lines := range map[string]string{"host-cert.pub": cert, "ca_user.pub": authorities} {
		if err := i.replace(name, []byte(lines+"\n")); err != nil {
			return false, err
		}
	}
	tell(i.setUp)
	return true, nil
}

// Revoked implements agent.Machine.
func (i *instance) Revoked() ([]byte, error) {
	list, err := os.ReadFile(i.path("revoked_keys"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return list, err
}

// SetRevoked implements agent.Machine.
func (i *instance) SetRevoked(_ context.Context, list []byte) error {
	if err := i.replace("revoked_keys", list); err != nil {
		return err
	}
	tell(i.lists)
	return nil
}

// replace writes a file in one step: sshd, which reads them at each login,
// never finds half of one.
func (i *instance) replace(name string, content []byte) error {
	file := i.path(name)
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Joined implements agent.Machine.
func (i *instance) Joined() bool {
	select {
	case <-i.joined:
		return true
	default:
		return false
	}
}

// Join implements agent.Machine. What ipa-client-install does is a scene of its
// own.
func (i *instance) Join(ctx context.Context, _ agentapi.IPA, _ string) error {
	select {
	case <-i.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell puts a value into a channel that holds one.
func tell(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default: // one is still unread
	}
}

// forgetChange drops the news of lists that were before.
func (i *instance) forgetChange() {
	select {
	case <-i.lists:
	default:
	}
}

// awaitChange returns when the list has changed.
func (i *instance) awaitChange(ctx context.Context, deadline time.Duration) error {
	select {
	case <-i.lists:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
		return fmt.Errorf("the instance has no new list of revoked keys after %v", deadline)
	}
}

// startServer starts sshd, in which a member of the project is whoever plays
// the demo: an sshd without privileges lets nobody else in.
func (s *story) startServer(ctx context.Context) error {
	i := s.instance
	var err error
	i.server, err = openssh.StartServer(context.WithoutCancel(ctx), openssh.ServerConfig{
		Programs: s.programs, Dir: i.dir,
		HostKey: i.path("host"), HostCertificate: i.path("host-cert.pub"),
		TrustedUserCAKeys: i.path("ca_user.pub"), RevokedKeys: i.path("revoked_keys"),
		Principals: map[string][]string{s.account: {"member"}},
	})
	return err
}
