// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package sshkey judges the public keys that clients hand in to be certified:
// it reads one key in OpenSSH's one-line form and refuses, with a reason for
// people, whatever is no sound public key of an accepted type.
//
// It never echoes what it was given, because that may be a private key pasted
// by mistake, never asks the network, and never handles private keys.
package sshkey

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

const (
	// MaxText is the most bytes of text that Parse takes.
	MaxText = 16 << 10
	// MaxComment is the most bytes that a key's comment may have.
	MaxComment = 1024

	defaultMinRSABits = 2048
	defaultMaxRSABits = 8192
)

// Policy says which keys are accepted. The zero value is a good one for hosts.
// Ed25519 and ECDSA on NIST's P-256, P-384 and P-521 are always accepted.
type Policy struct {
	MinRSABits int // least size of an RSA modulus, default 2048
	MaxRSABits int // largest, default 8192; never above 16384, OpenSSH's limit
	// AllowSecurityKeys accepts sk-ssh-ed25519@openssh.com and
	// sk-ecdsa-sha2-nistp256@openssh.com. People have such keys, hosts do not.
	AllowSecurityKeys bool
}

// Key is a public key that was accepted.
type Key struct {
	ssh.PublicKey
	Comment string // as given, without white space around
	SHA256  string // fingerprint as "ssh-keygen -l" writes it: "SHA256:" and base64
	MD5     string // as "ssh-keygen -l -E md5" writes it: "MD5:" and hexadecimal pairs
	Line    string // type and base64, without comment and line end
}

// RejectedError is every error of Parse.
type RejectedError struct {
	Reason string // for the client: what is wrong and what to do; nothing of the input
	// PrivateKey says that the text holds a private key, which has to be
	// treated as compromised.
	PrivateKey bool
}

func (e *RejectedError) Error() string { return "public key refused: " + e.Reason }

func reject(format string, args ...any) error {
	return &RejectedError{Reason: fmt.Sprintf(format, args...)}
}

// Parse reads one public key in the form of an OpenSSH .pub file ("type base64
// comment"), with white space around it and perhaps a byte order mark before
// it, and judges it. Any error is a
// *RejectedError.
func (p Policy) Parse(text string) (Key, error) {
	line, err := oneLine(text)
	if err != nil {
		return Key{}, err
	}
	kind, rest := cutWord(line)
	if err := p.checkKind(kind, rest); err != nil {
		return Key{}, err
	}
	encoded, comment := cutWord(rest)
	if encoded == "" {
		return Key{}, reject("there is nothing after the key type; send the whole line of the .pub file")
	}
	if len(comment) > MaxComment {
		return Key{}, reject("the comment has more than %d bytes; shorten it", MaxComment)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Key{}, reject("the key is not valid base64; it may have been cut off or changed while copying")
	}
	key, err := p.judge(kind, blob)
	if err != nil {
		return Key{}, err
	}
	return Key{
		PublicKey: key,
		Comment:   comment,
		SHA256:    fingerprintSHA256(blob),
		MD5:       fingerprintMD5(blob),
		Line:      kind + " " + encoded,
	}, nil
}

// judge reads the blob of a key whose type word is kind.
func (p Policy) judge(kind string, blob []byte) (ssh.PublicKey, error) {
	inner, body, ok := cutString(blob)
	if !ok {
		return nil, reject("the key is cut off or is no SSH public key")
	}
	if string(inner) != kind {
		return nil, reject("the type before the key differs from the type inside it")
	}
	if err := p.checkBody(kind, body); err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, reject("the key is damaged: it holds no valid %s key, or has trailing data", kind)
	}
	if !bytes.Equal(key.Marshal(), blob) {
		return nil, reject("the key is not encoded in the one proper way; export it again with: ssh-keygen -y")
	}
	return key, nil
}

// byteOrderMark begins the files of some of Windows' editors.
const byteOrderMark = "\ufeff"

// oneLine returns the text without white space around it, or why it cannot be
// one line with a public key.
func oneLine(text string) (string, error) {
	if holdsPrivateKey(text[:min(len(text), MaxText)]) {
		return "", &RejectedError{PrivateKey: true, Reason: "this is a PRIVATE KEY. Consider it compromised: " +
			"make a new key pair, remove the old one everywhere, and send only the .pub file"}
	}
	if len(text) > MaxText {
		return "", reject("the text has more than %d bytes", MaxText)
	}
	line := strings.Trim(strings.TrimPrefix(text, byteOrderMark), " \t\r\n")
	switch {
	case line == "":
		return "", reject("the key is empty")
	case strings.HasPrefix(line, "----"):
		return "", reject("this is not OpenSSH's one-line form; convert it with: ssh-keygen -i -m PKCS8 -f FILE " +
			"(or -m RFC4716 if it begins with BEGIN SSH2)")
	case strings.ContainsAny(line, "\r\n"):
		return "", reject("there are several lines; send one public key, in one line")
	case !utf8.ValidString(line):
		return "", reject("the text is not valid UTF-8")
	case strings.ContainsFunc(line, isControl):
		return "", reject("the text contains control characters")
	}
	return line, nil
}

// isControl finds what could forge a line in a log or on a terminal.
func isControl(r rune) bool {
	if r < unicode.MaxASCII { // nearly always
		return r < ' ' && r != '\t'
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// privateKeyMarks are found in private keys as PEM (PKCS#1, PKCS#8, SEC 1,
// OpenSSH), as OpenSSH's bare base64 of "openssh-key-v1", and of PuTTY, SSH1
// and SSH.com.
var privateKeyMarks = []string{
	"PRIVATE KEY",
	"b3BlbnNzaC1rZXktdjE",
	"PuTTY-User-Key-File",
	"Private-Lines:",
}

func holdsPrivateKey(text string) bool {
	for _, mark := range privateKeyMarks {
		if strings.Contains(text, mark) {
			return true
		}
	}
	return false
}

// checkKind judges the first word of a line.
func (p Policy) checkKind(kind, rest string) error {
	switch kind {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		if p.AllowSecurityKeys {
			return nil
		}
		return reject("keys of security tokens are not accepted here; use Ed25519")
	case "ssh-dss":
		return reject("DSA keys are not secure; make a new key with: ssh-keygen -t ed25519")
	}
	switch {
	case strings.HasSuffix(kind, "-cert-v01@openssh.com"):
		return reject("this is a certificate; send the public key that it certifies")
	case strings.HasPrefix(kind, "#"):
		return reject("this is a comment; send one public key")
	case strings.HasPrefix(kind, "AAAA"):
		return reject("the type before the key is missing; send the whole line of the .pub file")
	case namesKeyType(rest):
		return reject("there are options before the key; send the key alone")
	default:
		return reject("the key type is unknown; use Ed25519, ECDSA or RSA")
	}
}

// namesKeyType tells whether a key type stands in a line after its first word.
func namesKeyType(rest string) bool {
	for word := range strings.FieldsSeq(rest) {
		for _, prefix := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"} {
			if strings.HasPrefix(word, prefix) {
				return true
			}
		}
	}
	return false
}

// cutWord splits a line after its first word.
func cutWord(line string) (word, rest string) {
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.Trim(line[i:], " \t")
	}
	return line, ""
}

func fingerprintSHA256(blob []byte) string {
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func fingerprintMD5(blob []byte) string {
	sum := md5.Sum(blob)
	out := make([]byte, 0, len("MD5:")+3*len(sum))
	out = append(out, "MD5"...)
	for i := range sum {
		out = hex.AppendEncode(append(out, ':'), sum[i:i+1])
	}
	return string(out)
}
