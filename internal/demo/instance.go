// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

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

// instance is what goes on inside of the instance: what a boot script does,
// and its sshd.
type instance struct {
	id, projectID string // 32 hexadecimal digits
	dir           string
	key           string // the public host key, one line
	metadata      vendordata
	list          *revocationList
	stopList      context.CancelFunc
	server        *openssh.Server
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

// configure writes the files that sshd reads, and keeps the list of revoked
// keys up to date from then on.
func (s *story) configure(ctx context.Context, cert hostCert) error {
	i := s.instance
	for name, line := range map[string]string{"host-cert.pub": cert.Cert, "ca_user.pub": i.metadata.UserCA} {
		if err := os.WriteFile(i.path(name), []byte(strings.TrimSpace(line)+"\n"), 0o644); err != nil {
			return err
		}
	}
	i.list = &revocationList{
		http: s.http, url: i.metadata.APIEndpoint + "/noauth/revokeduserkeys/" + i.projectID,
		file: i.path("revoked_keys"), changes: make(chan struct{}, 1),
	}
	if err := i.list.update(ctx, 0); err != nil {
		return err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stopList = stop
	s.running.Go(func() { i.list.follow(following) })
	return nil
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

const (
	// listWait is how long a request for the list waits for a change.
	listWait = 20 * time.Second
	// listRetry is the pause after a request that failed.
	listRetry = time.Second
)

// revocationList keeps a project's list of revoked keys in a file.
type revocationList struct {
	http    *http.Client
	url     string
	file    string
	etag    string
	changes chan struct{} // gets a value after the file has changed
}

// follow keeps the file up to date until the context ends.
func (l *revocationList) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if l.update(ctx, listWait) == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(listRetry):
		}
	}
}

// update asks for the list, waiting for it to differ from the one at hand, and
// replaces the file in one step, so that sshd never reads half of it.
func (l *revocationList) update(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait+requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s?wait=%d", l.url, int(wait.Seconds())), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/octet-stream")
	request.Header.Set("If-None-Match", l.etag)
	response, err := l.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNotModified:
		return nil
	case http.StatusOK:
	default:
		return fmt.Errorf("the list of revoked keys: %s", response.Status)
	}
	list, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.file+".new", list, 0o644); err != nil {
		return err
	}
	if err := os.Rename(l.file+".new", l.file); err != nil {
		return err
	}
	l.etag = response.Header.Get("Etag")
	select {
	case l.changes <- struct{}{}:
	default: // one is still unread
	}
	return nil
}

// forgetChange drops the news of changes that were before.
func (l *revocationList) forgetChange() {
	select {
	case <-l.changes:
	default:
	}
}

// awaitChange returns when the file has changed.
func (l *revocationList) awaitChange(ctx context.Context, deadline time.Duration) error {
	select {
	case <-l.changes:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
		return fmt.Errorf("the instance has no new list of revoked keys after %v", deadline)
	}
}
