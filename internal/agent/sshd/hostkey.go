// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// hostKey reads a host key's public half, as an authorized_keys line, or why it
// is left out. sshd names its default keys though they are not there, which is
// no reason to say anything.
func (c *SSHD) hostKey(ctx context.Context, file string) (line, reason string) {
	public, err := c.tree.Read(file + ".pub")
	if err != nil {
		if !c.tree.Exists(file) {
			return "", ""
		}
		public, err = c.runner.Run(ctx, nil, "ssh-keygen", "-y", "-P", "", "-f", file)
	}
	if err != nil {
		return "", "it cannot be read: " + err.Error()
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(public)
	if err == nil {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ""
	}
	if kind := kindOf(public); kind != "" {
		return "", "it is of a kind that Muster cannot certify yet, " + kind + "; people who log in are shown one of the others"
	}
	return "", "its public key is damaged: " + file + ".pub"
}

// kindOf is the name of a public key's algorithm, if the line is whole: the key
// begins with the same name (RFC 4253, section 6.6).
func kindOf(line []byte) string {
	field := bytes.Fields(line)
	if len(field) < 2 {
		return ""
	}
	blob, err := base64.StdEncoding.DecodeString(string(field[1]))
	if err != nil || len(blob) < 4 {
		return ""
	}
	length := uint64(binary.BigEndian.Uint32(blob))
	if uint64(len(blob)) <= 4+length || !bytes.Equal(blob[4:4+length], field[0]) {
		return ""
	}
	return string(field[0])
}

// warnOfKeys logs which host keys are left out, each reason once.
func (c *SSHD) warnOfKeys(leftOut map[string]string) {
	for _, file := range slices.Sorted(maps.Keys(leftOut)) {
		if c.leftOut[file] != leftOut[file] {
			c.log.Warn("a host key is left out", "file", file, "reason", leftOut[file])
		}
	}
	c.leftOut = leftOut
}
