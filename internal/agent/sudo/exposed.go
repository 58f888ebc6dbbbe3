// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/ssh"
)

const (
	// maxExposed bounds a file of sshd's about a log-in, which has one line for each
	// method by which somebody authenticated.
	maxExposed = 64 << 10
	// maxExposedFiles and maxExposedCerts bound what a session can make us read.
	maxExposedFiles = 4
	maxExposedCerts = 8
)

// exposed are the certificates by which people logged in, as sshd has written
// them down (ExposeAuthInfo in sshd_config(5)). The file belongs to whoever
// calls sudo, who can write to it whatever he likes, or name another one: a
// certificate in it is no more than one to try.
func exposed(sudo int, who person) (certs []*ssh.Certificate) {
	files := 0
	for path := range named(sudo, who, "SSH_USER_AUTH") {
		if files++; files > maxExposedFiles {
			break
		}
		text, err := readAs(who, path)
		if err != nil {
			continue // that of a log-in that has ended, perhaps
		}
		certs = append(certs, parseExposed(text)...)
	}
	return certs[:min(len(certs), maxExposedCerts)]
}

// parseExposed reads such a file: "publickey", a key's type and the key.
func parseExposed(text []byte) (certs []*ssh.Certificate) {
	for line := range bytes.Lines(text) {
		key, ok := bytes.CutPrefix(line, []byte("publickey "))
		if !ok {
			continue
		}
		public, _, _, _, err := ssh.ParseAuthorizedKey(key)
		if cert, ok := public.(*ssh.Certificate); err == nil && ok && len(certs) < maxExposedCerts {
			certs = append(certs, cert)
		}
	}
	return certs
}

// readAs reads a file with the person's rights, and waits for nobody who might
// write to it.
func readAs(who person, path string) (text []byte, err error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("it is no absolute path")
	}
	err = asPerson(who, func() error {
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			return errors.New("it is no file")
		}
		text, err = io.ReadAll(io.LimitReader(file, maxExposed))
		return err
	})
	return text, err
}
