// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package vendordata is the face that Nova sees: dynamic vendordata for an
// instance that boots, in Tatu's form, in novajoin's, and in Muster's own, which
// holds both.
//
// What Nova's service user says of an instance is believed; Nova is not asked
// back. The instance's user-data comes with each call, may hold secrets, and
// is dropped unread.
package vendordata

import (
	"context"
	"net/http"
	"strings"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
)

// HostTokens prepares instances for their SSH identity.
type HostTokens interface {
	HostToken(ctx context.Context, by sshca.Actor, req sshca.InstanceRequest) (sshca.Boot, error)
}

// Config is what the face is made of.
type Config struct {
	Guard     *api.Guard
	Hosts     HostTokens
	Accounts  *Accounts
	Enrolment *Enrolment // nil: instances are not enrolled
	Programs  Programs   // nil: instances are not offered an agent

	SSHPort     int    // where instances serve SSH beside 22
	PAMSudo     bool   // sudo asks the user's SSH agent
	APIEndpoint string // where instances reach Muster
	APICA       string // PEM; who signed that address's certificate; empty: as the image has it
}

// Face answers Nova.
type Face struct {
	cfg Config
}

// New returns the face.
func New(cfg Config) *Face { return &Face{cfg: cfg} }

// Name implements api.Face.
func (f *Face) Name() string { return "vendordata" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	router.Handle("POST /v1/novavendordata", f.cfg.Guard.Authenticated(f.createForTatu))
	router.Handle("POST /novavendordata", f.cfg.Guard.Authenticated(f.createForTatu))
	router.Handle("POST /v1/vendordata", f.cfg.Guard.Authenticated(f.create))
}

// boot is Nova's description of an instance, as far as it matters.
type boot struct {
	ProjectID  string            `json:"project-id"`
	InstanceID string            `json:"instance-id"`
	ImageID    string            `json:"image-id"` // empty or null for one that boots from a volume
	Hostname   string            `json:"hostname"`
	Metadata   map[string]string `json:"metadata"`
}

// identified is a boot with its IDs in their canonical form.
type identified struct {
	boot
	project, instance string
}

// read reads and checks a request's body.
func read(r *api.Request) (identified, error) {
	var found identified
	if err := r.Decode(&found.boot); err != nil {
		return found, err
	}
	var err error
	if found.project, err = api.ID("project-id", found.ProjectID); err != nil {
		return found, err
	}
	if found.instance, err = api.ID("instance-id", found.InstanceID); err != nil {
		return found, err
	}
	if found.Hostname == "" {
		return found, problem.InField("hostname", "is missing")
	}
	return found, nil
}

// SSH is what the instance's boot script reads. The spelling of the keys is
// Tatu's. In their order one thing matters: the script reads what is no string
// up to the next comma, so that such a key must not be the last.
type SSH struct {
	Token          string `json:"token"`
	UserCA         string `json:"auth_pub_key_user"`
	RootPrincipals string `json:"root_principals"`
	Users          string `json:"users"`
	Sudoers        string `json:"sudoers"`
	SSHPort        int    `json:"ssh_port"`
	PAMSudo        bool   `json:"pam_sudo"`
	APIEndpoint    string `json:"api_endpoint"`
}

// createForTatu answers as Tatu does: 201, and where the token would be.
func (f *Face) createForTatu(r *api.Request) (api.Response, error) {
	ssh, _, err := f.prepare(r)
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Status: http.StatusCreated, Location: "/hosttokens/" + ssh.Token, Body: ssh}, nil
}

// Identity is all that an instance needs: for SSH, and for FreeIPA if it asks.
type Identity struct {
	SSH
	Joining
	EnrolmentError string `json:"ipa_error,omitempty"` // why there is no enrolment
	Agent
}

// create answers with all that an instance needs.
func (f *Face) create(r *api.Request) (api.Response, error) {
	ssh, instance, err := f.prepare(r)
	if err != nil {
		return api.Response{}, err
	}
	identity := Identity{SSH: ssh, Agent: f.agent(instance, ssh.APIEndpoint)}
	if f.cfg.Enrolment != nil {
		identity.Joining, identity.EnrolmentError, err = f.cfg.Enrolment.beside(r, instance)
	}
	return api.Response{Body: identity}, err
}

func (f *Face) prepare(r *api.Request) (SSH, identified, error) {
	instance, err := read(r)
	if err != nil {
		return SSH{}, instance, err
	}
	if err := r.Authorize(policy.VendordataCreate, api.Object{ProjectID: instance.project}); err != nil {
		return SSH{}, instance, err
	}
	boot, err := f.cfg.Hosts.HostToken(r.Context(), r.Actor(), sshca.InstanceRequest{
		InstanceID: instance.instance, ProjectID: instance.project, Hostname: instance.Hostname,
	})
	if err != nil {
		return SSH{}, instance, err
	}
	ssh, err := f.describe(r, instance.project, boot)
	return ssh, instance, err
}

func (f *Face) describe(r *api.Request, project string, boot sshca.Boot) (SSH, error) {
	accounts, err := f.cfg.Accounts.Of(r.Context(), project)
	if err != nil {
		return SSH{}, err
	}
	var users, sudoers []string
	for _, account := range accounts {
		users = append(users, account.Name)
		if account.Sudo {
			sudoers = append(sudoers, account.Name)
		}
	}
	endpoint := f.cfg.APIEndpoint
	if endpoint == "" {
		endpoint = r.BaseURL()
	}
	return SSH{
		Token: boot.Token, UserCA: boot.UserCA,
		Users: strings.Join(users, ","), Sudoers: strings.Join(sudoers, ","),
		SSHPort: f.cfg.SSHPort, APIEndpoint: endpoint, PAMSudo: f.cfg.PAMSudo,
	}, nil
}
