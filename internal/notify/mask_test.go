// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMasked(t *testing.T) {
	t.Parallel()
	inner := `{"event_type": "compute.instance.update", "payload": {"instance_id": 7, "admin_pass": "hunter2", "metadata": {"hunter2": ["hunter2", 4711]}}, "_context_auth_token": "gAAAAhunter2"}`
	quoted, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ body, want string }{
		"envelope": {`{"oslo.version": "2.0", "oslo.message": ` + string(quoted) + `}`,
			`{"oslo.version": "2.0", "oslo.message": {"event_type": "compute.instance.update", "payload": {"instance_id": 7, ` +
				`"admin_pass": "***", "metadata": {"hunter2": ["***", "***"]}}, "_context_auth_token": "***"}}`},
		"bare, cut off":     {inner[:120], ""},
		"no JSON":           {"password=hunter2-hunter2", `no JSON; it begins with "password"`},
		"nothing":           {"", `no JSON; it begins with ""`},
		"true, null, other": {`{"a": true, "b": null, "c": 4711, "d": hunter2}`, `{"a": true, "b": null, "c": "***", "d": "***"}`},
	} {
		got := masked([]byte(test.body))
		if name == "bare, cut off" {
			if strings.Contains(got, `: "hunter2"`) || !strings.HasPrefix(got, `{"event_type": "compute.instance.update"`) {
				t.Errorf("%s: %s", name, got)
			}
			continue
		}
		if got != test.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, test.want)
		}
	}
}

// FuzzMasked: whatever comes, what is kept is short, and has no value in it that is not named.
func FuzzMasked(f *testing.F) {
	f.Add([]byte(`{"oslo.version": "2.0", "oslo.message": "{\"event_type\": \"x\", \"payload\": {\"a\": \"b\"}}"}`))
	f.Add([]byte(`{"a": "b`))
	f.Add([]byte(`["\u00`))
	f.Add([]byte("\xff{"))
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := masked(body)
		if len(kept) > maxKept || !utf8.ValidString(kept) {
			t.Errorf("%d bytes: %q", len(kept), kept)
		}
		secret := []byte(`{"password": "hunter2-4711"}`)
		if strings.Contains(masked(append(bytes.TrimRight(body, "\x00"), secret...)), `hunter2-4711"`) && !strings.Contains(string(body), `"`) {
			t.Errorf("a secret is kept: %q", masked(append(body, secret...)))
		}
	})
}

const bzip2Sample = "QlpoOTFBWSZTWYZFYNQAAAibgFAAABAAAIIBRWogACKZoBoIBoAViMe7wSSQ06vC7kinChIQyKwagA=="

func TestDecompress(t *testing.T) {
	t.Parallel()
	const text = `{"event_type": "x"}`
	var zlibbed, gzipped, bomb bytes.Buffer
	for _, compressed := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{zlib.NewWriter(&zlibbed), gzip.NewWriter(&gzipped)} {
		if _, err := compressed.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := compressed.Close(); err != nil {
			t.Fatal(err)
		}
	}
	large := zlib.NewWriter(&bomb)
	if _, err := large.Write(make([]byte, maxBody+1)); err != nil {
		t.Fatal(err)
	}
	if err := large.Close(); err != nil {
		t.Fatal(err)
	}
	// bz2.compress of Python, for the standard library only reads bzip2.
	bzipped, err := base64.StdEncoding.DecodeString(bzip2Sample)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		body        []byte
		compression string
	}{
		"kombu's gzip": {zlibbed.Bytes(), "application/x-gzip"}, "gzip": {gzipped.Bytes(), "gzip"},
		"kombu's bz2": {bzipped, "application/x-bz2"}, "none": {[]byte(text), "utf-8"}, "nothing said": {[]byte(text), ""},
	} {
		got, err := decompress(test.body, test.compression)
		if err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, test := range map[string]struct {
		body        []byte
		compression string
	}{
		"damaged": {[]byte(text), "application/x-gzip"}, "damaged bz2": {[]byte(text), "bzip2"}, "cut off": {zlibbed.Bytes()[:10], "gzip"},
		"bomb": {bomb.Bytes(), "application/x-gzip"}, "unknown": {[]byte(text), "application/x-lzma"},
	} {
		if _, err := decompress(test.body, test.compression); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
