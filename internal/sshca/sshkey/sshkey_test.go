// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

var everything = Policy{AllowSecurityKeys: true}

// keyLine writes the parts of a blob as a line of a .pub file.
func keyLine(kind string, parts ...string) string {
	var blob []byte
	for _, part := range append([]string{kind}, parts...) {
		blob = append(blob, byte(len(part)>>24), byte(len(part)>>16), byte(len(part)>>8), byte(len(part)))
		blob = append(blob, part...)
	}
	return kind + " " + base64.StdEncoding.EncodeToString(blob)
}

func mpint(n *big.Int) string {
	b := n.Bytes()
	if len(b) > 0 && b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return string(b)
}

func rsaLine(e int64, n *big.Int) string {
	return keyLine("ssh-rsa", mpint(big.NewInt(e)), mpint(n))
}

func ed25519Point(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(public)
}

func ecdsaPoint(t testing.TB, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return string(point)
}

func prime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func nextPrime(p *big.Int) *big.Int {
	next := new(big.Int).Set(p)
	for next.Add(next, big.NewInt(2)); !next.ProbablyPrime(10); {
		next.Add(next, big.NewInt(2))
	}
	return next
}

func unhex(t testing.TB, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rocaModulus makes a number as the faulty library did: a power of 65537
// modulo the product of the first primes.
func rocaModulus() *big.Int {
	m := big.NewInt(1)
	for p := int64(2); p <= 701; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
		}
	}
	// Above the first primes there may be small factors; look for a multiple without.
	small := big.NewInt(1)
	for p := int64(703); p < 2048; p += 2 {
		small.Mul(small, big.NewInt(p))
	}
	n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m)
	n.Add(n, new(big.Int).Mul(m, new(big.Int).Lsh(big.NewInt(1), uint(2050-m.BitLen()))))
	for new(big.Int).GCD(nil, nil, n, small).Cmp(big.NewInt(1)) != 0 {
		n.Add(n, m)
	}
	return n
}

func TestRefusals(t *testing.T) {
	point := ed25519Point(t)
	good := keyLine("ssh-ed25519", point)
	p := prime(t, 1024)
	sound := new(big.Int).Mul(p, prime(t, 1024))
	for sound.BitLen() < 2048 {
		sound.Mul(p, prime(t, 1025))
	}
	p256 := ecdsaPoint(t, elliptic.P256())
	off := p256[:64] + string([]byte{p256[64] ^ 1})
	_, encoded, _ := strings.Cut(good, " ")
	tests := []struct{ name, text, reason string }{
		{"empty", " \n", "empty"},
		{"too long", good + " " + strings.Repeat("x", MaxText), "16384 bytes"},
		{"long comment", good + " " + strings.Repeat("x", MaxComment+1), "comment"},
		{"two lines", good + "\n" + good, "several lines"},
		{"control character", good + " a\x1b[2Jb", "control characters"},
		{"NUL", good + " \x00", "control characters"},
		{"byte order mark within", good + " \ufeffme", "control characters"},
		{"right to left override", good + " \u202egnp", "control characters"},
		{"not UTF-8", good + " \xff", "UTF-8"},
		{"PEM public key", "-----BEGIN PUBLIC KEY-----\nMCowBQ\n-----END PUBLIC KEY-----\n", "one-line form"},
		{"SSH2 public key", "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "one-line form"},
		{"PEM private key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "PRIVATE KEY"},
		{"PKCS #8", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE", "PRIVATE KEY"},
		{"OpenSSH private key without armour", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU", "PRIVATE KEY"},
		{"PuTTY private key", "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none", "PRIVATE KEY"},
		{"private key after a public key", good + "\n-----BEGIN OPENSSH PRIVATE KEY-----", "PRIVATE KEY"},
		{"SSH1 private key", "SSH PRIVATE KEY FILE FORMAT 1.1\n", "PRIVATE KEY"},
		{"options", `no-pty,command="ssh-keygen x" ` + good, "options"},
		{"DSA", keyLine("ssh-dss", "a"), "DSA"},
		{"certificate", keyLine("ssh-ed25519-cert-v01@openssh.com", "a"), "certificate"},
		{"comment only", "# hello", "comment"},
		{"without type", encoded, "type before the key is missing"},
		{"unknown type", "hello world", "unknown"},
		{"type only", "ssh-ed25519", "nothing after"},
		{"not base64", "ssh-ed25519 AAAA!", "base64"},
		{"cut", good[:len(good)-8], "cut off"},
		{"empty blob", "ssh-ed25519 AAAA", "cut off"},
		{"type differs", "ssh-rsa " + encoded, "differs"},
		{"trailing data", keyLine("ssh-ed25519", point, "x"), "trailing data"},
		{"short Ed25519", keyLine("ssh-ed25519", point[:31]), "no point"},
		{"off Ed25519", keyLine("ssh-ed25519", "\x02"+strings.Repeat("\x00", 31)), "no point"},
		{"identity", keyLine("ssh-ed25519", "\x01"+strings.Repeat("\x00", 31)), "small order"},
		{"order 4", keyLine("ssh-ed25519", strings.Repeat("\x00", 32)), "small order"},
		{"order 8", keyLine("ssh-ed25519",
			unhex(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")), "small order"},
		{"not canonical", keyLine("ssh-ed25519", "\xee"+strings.Repeat("\xff", 30)+"\x7f"), "canonical"},
		{"not canonical sign", keyLine("ssh-ed25519", "\x01"+strings.Repeat("\x00", 30)+"\x80"), "small order"},
		{"off P-256", keyLine("ecdsa-sha2-nistp256", "nistp256", off), "damaged"},
		{"infinity", keyLine("ecdsa-sha2-nistp256", "nistp256", "\x00"), "damaged"},
		{"another curve", keyLine("ecdsa-sha2-nistp384", "nistp256", p256), "damaged"},
		{"security key without application", keyLine("sk-ssh-ed25519@openssh.com", point, ""), "application"},
		{"security key, control character", keyLine("sk-ssh-ed25519@openssh.com", point, "ssh:\n"), "application"},
		{"security key, cut", keyLine("sk-ecdsa-sha2-nistp256@openssh.com", "nistp256"), "cut off"},
		{"security key off curve", keyLine("sk-ecdsa-sha2-nistp256@openssh.com", "nistp256", off, "ssh:"), "damaged"},
		{"short RSA", rsaLine(65537, new(big.Int).Mul(prime(t, 512), prime(t, 512))), "bits, less than 2048"},
		{"long RSA", rsaLine(65537, new(big.Int).Lsh(big.NewInt(1), 8192)), "bits"},
		{"very long RSA", rsaLine(65537, new(big.Int).Lsh(big.NewInt(1), 16400)), "more than 8192 bits"},
		{"even RSA", rsaLine(65537, new(big.Int).Lsh(sound, 1)), "even"},
		{"negative RSA", keyLine("ssh-rsa", "\x01\x00\x01", "\x80"+strings.Repeat("\x01", 255)), "not positive"},
		{"exponent 3", rsaLine(3, sound), "below 65537"},
		{"exponent 1", rsaLine(1, sound), "below 65537"},
		{"no exponent", keyLine("ssh-rsa", "", mpint(sound)), "not positive"},
		{"even exponent", rsaLine(65538, sound), "exponent is even"},
		{"huge exponent", rsaLine(1<<40+1, sound), "too large"},
		{"large exponent", rsaLine(1<<25+1, sound), "too large"},
		{"not the shortest encoding", keyLine("ssh-rsa", "\x00\x01\x00\x01", mpint(sound)), "one proper way"},
		{"small factor", rsaLine(65537, new(big.Int).Mul(sound, big.NewInt(2039))), "small factor"},
		{"ROCA", rsaLine(65537, rocaModulus()), "ROCA"},
		{"square", rsaLine(65537, new(big.Int).Mul(prime2048, prime2048)), "too close"},
		{"close primes", rsaLine(65537, new(big.Int).Mul(prime2048, nextPrime(prime2048))), "too close"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, err := everything.Parse(test.text)
			var rejected *RejectedError
			if !errors.As(err, &rejected) {
				t.Fatalf("got %v and error %v, want a RejectedError", key.Line, err)
			}
			if !strings.Contains(rejected.Reason, test.reason) {
				t.Errorf("got reason %q, want it to contain %q", rejected.Reason, test.reason)
			}
			if rejected.PrivateKey != (test.reason == "PRIVATE KEY") {
				t.Errorf("PrivateKey = %v", rejected.PrivateKey)
			}
		})
	}
}

// prime2048 is a prime of 1025 bits with room above it.
var prime2048 = func() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(3), 1023)
	return nextPrime(p.Add(p, big.NewInt(1)))
}()

func TestSecurityKeysNeedPermission(t *testing.T) {
	line := keyLine("sk-ssh-ed25519@openssh.com", ed25519Point(t), "ssh:")
	if _, err := (Policy{}).Parse(line); err == nil {
		t.Error("accepted though not allowed")
	}
	if _, err := everything.Parse(line); err != nil {
		t.Error(err)
	}
}

func TestWhiteSpaceAndComment(t *testing.T) {
	line := keyLine("ssh-ed25519", ed25519Point(t))
	key, err := Policy{}.Parse(" \t" + strings.Replace(line, " ", " \t ", 1) + "\t  Zoë at home \r\n\n")
	if err != nil {
		t.Fatal(err)
	}
	if key.Line != line || key.Comment != "Zoë at home" {
		t.Errorf("got %q and comment %q", key.Line, key.Comment)
	}
}

func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal("ssh-keygen is missing: install the package openssh-client")
		}
		t.Skip("NOT JUDGED BY OPENSSH: ssh-keygen is missing; install the package openssh-client")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %s: %s", args[0], out)
	}
	return string(out)
}

// TestOpenSSHAgrees parses keys that the real ssh-keygen made, and security
// keys made here, and compares fingerprints with "ssh-keygen -l".
func TestOpenSSHAgrees(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"},
		"p256":    {"-t", "ecdsa", "-b", "256"},
		"p384":    {"-t", "ecdsa", "-b", "384"},
		"p521":    {"-t", "ecdsa", "-b", "521"},
		"rsa2048": {"-t", "rsa", "-b", "2048"},
		"rsa3072": {"-t", "rsa", "-b", "3072"},
	} {
		path := filepath.Join(dir, name)
		sshKeygen(t, append(args, "-q", "-N", "", "-C", "a comment", "-f", path)...)
		files[name] = path + ".pub"
		private, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var rejected *RejectedError
		if _, err := everything.Parse(string(private)); !errors.As(err, &rejected) || !rejected.PrivateKey {
			t.Errorf("%s: the private key is not recognized: %v", name, err)
		}
	}
	for name, line := range map[string]string{
		"sk-ed25519": keyLine("sk-ssh-ed25519@openssh.com", ed25519Point(t), "ssh:"),
		"sk-ecdsa": keyLine("sk-ecdsa-sha2-nistp256@openssh.com", "nistp256",
			ecdsaPoint(t, elliptic.P256()), "ssh:login"),
	} {
		files[name] = filepath.Join(dir, name+".pub")
		if err := os.WriteFile(files[name], []byte(line+" a comment\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		key, err := everything.Parse(string(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if key.Line+" a comment\n" != string(text) || key.Comment != "a comment" {
			t.Errorf("%s: line %q, comment %q", name, key.Line, key.Comment)
		}
		if got := strings.Fields(sshKeygen(t, "-l", "-f", path))[1]; got != key.SHA256 {
			t.Errorf("%s: %s, ssh-keygen says %s", name, key.SHA256, got)
		}
		if got := strings.Fields(sshKeygen(t, "-l", "-E", "md5", "-f", path))[1]; got != key.MD5 {
			t.Errorf("%s: %s, ssh-keygen says %s", name, key.MD5, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	point := ed25519Point(f)
	f.Add(keyLine("ssh-ed25519", point) + " comment\n")
	f.Add(keyLine("sk-ssh-ed25519@openssh.com", point, "ssh:"))
	f.Add(keyLine("ecdsa-sha2-nistp256", "nistp256", ecdsaPoint(f, elliptic.P256())))
	f.Add(keyLine("ecdsa-sha2-nistp521", "nistp521", ecdsaPoint(f, elliptic.P521())))
	f.Add(keyLine("sk-ecdsa-sha2-nistp256@openssh.com", "nistp256", ecdsaPoint(f, elliptic.P256()), "ssh:"))
	f.Add(rsaLine(65537, new(big.Int).Mul(prime(f, 1024), prime(f, 1024))))
	f.Add(rsaLine(3, big.NewInt(15)))
	f.Add("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := everything.Parse(text)
		if err != nil {
			var rejected *RejectedError
			if !errors.As(err, &rejected) {
				t.Fatalf("%T", err)
			}
			return
		}
		again, err := everything.Parse(key.Line + " " + key.Comment)
		if err != nil || again.SHA256 != key.SHA256 || again.Comment != key.Comment {
			t.Fatalf("an accepted key is not accepted again: %v", err)
		}
		if ssh.FingerprintSHA256(key) != key.SHA256 || strings.ContainsAny(key.Line+key.Comment, "\r\n\x00") {
			t.Fatal("fingerprint or line is wrong")
		}
		if !bytes.HasPrefix(ssh.MarshalAuthorizedKey(key), []byte(key.Line)) {
			t.Fatal("the line is not the key's")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for name, line := range map[string]string{
		"ed25519": keyLine("ssh-ed25519", ed25519Point(b)),
		"p256":    keyLine("ecdsa-sha2-nistp256", "nistp256", ecdsaPoint(b, elliptic.P256())),
		"rsa2048": rsaLine(65537, new(big.Int).Mul(new(big.Int).SetBit(prime(b, 1024), 1023, 1), prime(b, 1025))),
		"rsa4096": rsaLine(65537, new(big.Int).Mul(prime(b, 2048), prime(b, 2049))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := everything.Parse(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestByteOrderMark: editors of Windows put one before the key.
func TestByteOrderMark(t *testing.T) {
	good := keyLine("ssh-ed25519", ed25519Point(t))
	key, err := Policy{}.Parse("\ufeff" + good + " CORP\\user@PC\r\n")
	if err != nil || key.Line != good || key.Comment != `CORP\user@PC` {
		t.Errorf("%+v, %v", key, err)
	}
}
