// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/machine"
)

// What the agent does can be done by hand: with nothing but files, an instance
// that cloud-init has set up gets its certificate and lets people in.
func TestByHand(t *testing.T) {
	t.Parallel()
	m := machine.New(t, machine.Config{Name: "web-1", DMIProduct: "OpenStack Nova", Prepare: image})
	s := newSite(t, "")
	instance := s.boot(t, m, nil)
	m.Boot(t)
	// It fails with 2 where cloud-init has warned of something (since 23.4).
	m.Must(t, "sh", "-c", "cloud-init status --wait || test $? = 2")

	var metadata struct {
		Muster struct {
			Token  string
			UserCA string `json:"auth_pub_key_user"`
		}
	}
	answer := m.Must(t, "curl", "-sSf", "http://169.254.169.254/openstack/latest/vendor_data2.json")
	if err := json.Unmarshal([]byte(answer), &metadata); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(m.Root, "etc/ssh/ssh_host_ed25519_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	var cert deployment.HostCert
	nobody := deployment.As(s.env.MusterURL, deployment.Person{})
	nobody.Want(t, http.StatusOK, "POST", "/noauth/hostcerts", deployment.Object{
		"token_id": metadata.Muster.Token, "host_id": instance.id, "pub_key": string(key),
	}, &cert)
	for name, text := range map[string]string{
		"etc/ssh/ssh_host_ed25519_key-cert.pub": cert.Cert + "\n",
		"etc/ssh/ca_user.pub":                   metadata.Muster.UserCA + "\n",
		"etc/ssh/sshd_config.d/hand.conf": "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n" +
			"TrustedUserCAKeys /etc/ssh/ca_user.pub\n",
	} {
		if err := os.WriteFile(filepath.Join(m.Root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Must(t, "useradd", "--create-home", "--shell", "/bin/bash", "member")
	m.Must(t, "systemctl", "reload", "ssh.service")

	alice := s.newPerson(t, "alice", "member")
	s.certify(t, alice)
	alice.enter(t, m, "member")
	if _, err := alice.ssh(t.Context(), m, login{account: "root", command: "true"}); !errors.Is(err, errRefused) {
		t.Errorf("a member as root: %v", err)
	}
}

// image makes the installed Debian a cloud's image: cloud-init looks for
// OpenStack's metadata.
func image(root string) error {
	return os.WriteFile(filepath.Join(root, "etc/cloud/cloud.cfg.d/90_datasource.cfg"),
		[]byte("datasource_list: [OpenStack]\nlocale: C.UTF-8\n"), 0o644)
}
