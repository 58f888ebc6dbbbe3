// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package cloudinit makes what cloud-init runs inside an instance to get
// muster-agent: a short boot script, in a cloud-config or in the static
// vendordata that Nova hands out (vendordata_jsonfile_path).
//
// It joins that with what an operator hands out already, and turns each form
// into the other. It reads and writes no files, and puts no secret into what it
// makes: everything that belongs to one instance comes to it through Nova's
// dynamic vendordata.
package cloudinit

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Header begins a cloud-config. cloud-init looks at nothing else to know one.
const Header = "#cloud-config"

// MaxSize is the most bytes that a file which is read may have. Nova reads its
// file at each start of an instance, and gives it to each one.
const MaxSize = 1 << 20

// key is the one of Nova's static vendordata that cloud-init reads.
const key = "cloud-init"

// marker tells the boot script, of any version, from other commands.
const marker = "# muster-boot:"

// runCmd is the key of a cloud-config for commands of the first boot.
const runCmd = "runcmd"

// archiveHeader begins an archive of parts (cloud-init, "User data formats").
const archiveHeader = Header + "-archive"

//go:embed boot.sh
var script string

// Script returns the boot script, for a POSIX shell.
func Script() string { return script }

// bootCommand runs the boot script.
func bootCommand() []string { return []string{"sh", "-c", script} }

// CloudConfig returns the boot script as a cloud-config, to be given to an
// instance as its user-data.
func CloudConfig() (string, error) {
	return encodeConfig(map[string][][]string{runCmd: {bootCommand()}})
}

// part is one of an archive.
type part struct {
	Type    string `yaml:"type"`
	Content string `yaml:"content"`
}

// archive returns the boot script in the form for vendordata. There it is no
// runcmd: that of a user's user-data takes the place of a vendor's, whatever
// either says of merging, while cloud-init runs a vendor's scripts beside the
// user's, and before them (modules scripts-vendor and scripts-user).
func archive() (string, error) {
	return encode(archiveHeader, []part{{"text/x-shellscript", script}})
}

// Vendordata returns the boot script as Nova's static vendordata.
func Vendordata() ([]byte, error) { return Merge([]byte("{}")) }

// encodeConfig writes a cloud-config.
func encodeConfig(value any) (string, error) { return encode(Header, value) }

func encode(header string, value any) (string, error) {
	var text bytes.Buffer
	text.WriteString(header + "\n")
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(value), encoder.Close()); err != nil {
		return "", fmt.Errorf("writing YAML: %w", err)
	}
	return text.String(), nil
}

// IsCloudConfig tells whether cloud-init takes the text for a cloud-config.
func IsCloudConfig(text string) bool {
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first) == Header
}

// ToVendordata puts text that cloud-init understands, of whatever kind, into
// Nova's static vendordata: as it is, comments included.
func ToVendordata(text []byte) ([]byte, error) {
	if err := checkSize(text); err != nil {
		return nil, err
	}
	if IsCloudConfig(string(text)) {
		if _, err := parseConfig(string(text)); err != nil {
			return nil, err
		}
	} else if !isKnownKind(string(text)) {
		return nil, fmt.Errorf("cloud-init does not know this: the first line must be %s, #!INTERPRETER or another of its formats",
			Header)
	}
	return encodeVendordata(document{{key, mustJSON(string(text))}})
}

// isKnownKind tells whether text begins as one of cloud-init's formats does
// (cloud-init, "User data formats").
func isKnownKind(text string) bool {
	for _, start := range []string{
		"#!", "#include", "#cloud-boothook", archiveHeader, "#cloud-config-jsonp", "#part-handler",
		"## template: jinja", "Content-Type: multipart", "MIME-Version:", "From nobody",
	} {
		if strings.HasPrefix(text, start) {
			return true
		}
	}
	return false
}

// FromVendordata returns what cloud-init reads in Nova's static vendordata. It
// fails if that has several parts, which no single file can hold.
func FromVendordata(data []byte) (string, error) {
	if err := checkSize(data); err != nil {
		return "", err
	}
	v, err := parseVendordata(data)
	if err != nil {
		return "", err
	}
	if v.form == anObject && !v.hasParts {
		return "", fmt.Errorf("the vendordata has no key %q, and so nothing for cloud-init", key)
	}
	if len(v.parts) != 1 {
		return "", fmt.Errorf("the vendordata has a list of %d parts for cloud-init; only a single one can be turned into a file", len(v.parts))
	}
	return v.parts[0], nil
}

// checkSize refuses what no vendordata should be.
func checkSize(data []byte) error {
	if len(data) > MaxSize {
		return fmt.Errorf("the file has more than %d bytes; every instance would have to read them at boot", MaxSize)
	}
	return nil
}
