// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/demo/standin"
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
type instance struct {
	id, projectID string // 32 hexadecimal digits
	dir           string
	key           string // the public host key, one line
	metadata      vendordata
	machine       *standin.Machine
	server        *openssh.Server
	stopAgent     context.CancelFunc
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
	i.machine = standin.New(standin.Config{
		Programs: s.programs, Dir: i.dir, Account: s.account, Join: i.join,
		HostKeys: []agent.HostKey{{Path: i.path("host"), Public: i.key}},
		Finder: finder{ID: i.id, ProjectID: i.projectID, Source: "demo", Token: i.metadata.Token, Endpoint: i.metadata.APIEndpoint,
			Joining: metadata.Joining{FQDN: i.metadata.FQDN, Realm: i.metadata.Realm, OTP: i.metadata.OTP}},
		Transport: s.http.Transport, Version: s.cfg.Version, Log: s.cfg.Logger,
	})
	a, err := i.machine.NewAgent()
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stopAgent = stop
	s.running.Go(func() { _ = a.Run(running) }) // it ends with its context only
	return nil
}

// finder knows an instance's metadata.
type finder metadata.Instance

// Find implements agent.Finder.
func (f finder) Find(context.Context) (metadata.Instance, error) { return metadata.Instance(f), nil }

// FindCurrent implements agent.Finder.
func (f finder) FindCurrent(context.Context) (metadata.Instance, error) {
	return metadata.Instance(f), nil
}

// join lets the agent wait: what ipa-client-install does is a scene of its own.
func (i *instance) join(ctx context.Context, _ agentapi.IPA, _ string) error {
	select {
	case <-i.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
