// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"fmt"
	"slices"
	"strings"
)

// maxAccountName is the limit of useradd and of utmp's ut_user.
const maxAccountName = 32

// AccountRules turn the names of Keystone roles into the names of Linux
// accounts, which are the principals of user certificates and the accounts
// that instances make.
type AccountRules struct {
	// Accounts maps a role to an account; other roles have their own name.
	Accounts map[string]string
	// Prefix is put before the names of roles that are not in Accounts.
	Prefix string
	// Reserved names are never used, beside those of common distributions.
	Reserved []string
}

// LeftOut is a role that has no account, and why.
type LeftOut struct {
	Role, Reason string
}

// Check reports configured accounts that could never be used.
func (r AccountRules) Check() error {
	for role, account := range r.Accounts {
		if reason := r.unusable(account); reason != "" {
			return fmt.Errorf("account %q of role %q %s", account, role, reason)
		}
	}
	return nil
}

// Of returns the accounts of the roles, sorted and without repetition, and
// the roles that have none.
func (r AccountRules) Of(roles []string) (accounts []string, leftOut []LeftOut) {
	for _, role := range roles {
		account, mapped := r.Accounts[role]
		if !mapped {
			account = r.Prefix + role
		}
		if reason := r.unusable(account); reason != "" {
			leftOut = append(leftOut, LeftOut{Role: role, Reason: fmt.Sprintf("%q %s", account, reason)})
			continue
		}
		accounts = append(accounts, account)
	}
	slices.Sort(accounts)
	return slices.Compact(accounts), leftOut
}

// unusable says why a name cannot be an account's, or nothing. The rule is an
// allow-list, since the name goes into authorized principals, sudoers files
// and the command lines of useradd on every instance.
func (r AccountRules) unusable(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > maxAccountName:
		return fmt.Sprintf("is longer than %d characters", maxAccountName)
	case !isLetter(name[0]) && name[0] != '_':
		return "does not begin with a letter or an underscore"
	case strings.IndexFunc(name, notInAccount) >= 0:
		return "has characters other than ASCII letters, digits, '.', '_' and '-'"
	case isSystemAccount(name) || slices.Contains(r.Reserved, name):
		return "is a system account or group"
	default:
		return ""
	}
}

func notInAccount(c rune) bool {
	return c > 0x7f || !isLetter(byte(c)) && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// isSystemAccount knows the accounts and groups that base systems and their
// daemons bring along, and the first users of cloud images, who have sudo
// without a password. A role of such a name must not log in as them.
func isSystemAccount(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasPrefix(lower, "systemd-") || slices.Contains(systemAccounts, lower)
}

var systemAccounts = strings.Fields(`
	root toor daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup
	adm tty disk kmem dialout fax voice cdrom floppy tape sudo wheel audio dip src shadow utmp video sasl plugdev staff
	users input render kvm sgx crontab ssh ssh_keys netdev docker lxd libvirt libvirt-qemu qemu halt shutdown operator
	gopher ftp apache nginx httpd dbus messagebus polkitd polkituser sshd _apt _ssh _chrony chrony ntp ntpsec rpc rpcuser nfsnobody
	statd tss tcpdump syslog rsyslog uuidd landscape fwupd-refresh pollinate usbmux avahi sssd ipaapi kdcproxy dirsrv pki named bind
	postfix exim debian-exim dovecot mysql mariadb postgres redis memcache rabbitmq haproxy keepalived ceph etcd cloud-init
	keystone nova neutron glance cinder placement heat swift barbican designate octavia ironic horizon manila
	ubuntu debian fedora centos rocky almalinux cloud-user ec2-user opensuse sles alpine arch freebsd core cirros vagrant`)
