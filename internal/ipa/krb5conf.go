// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
)

const (
	maxConfFile   = 1 << 20 // bytes, of one configuration file
	maxConfFiles  = 200     // that one configuration consists of
	maxConfNested = 10      // braces within braces
)

// krb5Name is what a file in an includedir must be called to count (krb5.conf(5), "includedir").
var krb5Name = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.conf)?$`)

// strongTypes are the encryption types asked for unless krb5.conf says otherwise.
var strongTypes = []string{
	"aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96", "aes256-cts-hmac-sha384-192", "aes128-cts-hmac-sha256-128",
}

// ReadKrb5Conf reads a krb5.conf as MIT Kerberos does: with its include and includedir lines, nested braces, and the
// first of several values taken. Options that the Kerberos library does not know are passed over; those for renewal,
// forwarding and canonical names too, which this client does not use.
func ReadKrb5Conf(path string) (*config.Config, error) {
	r := krb5Reader{readFile: readLimited, readDir: listFiles}
	if err := r.file(path); err != nil {
		return nil, err
	}
	return r.config()
}

// NewKrb5Conf makes a Kerberos configuration for a realm with KDCs as HOST or HOST:PORT; without any, the DNS names them.
func NewKrb5Conf(realm string, kdcs ...string) *config.Config {
	cfg := config.New()
	cfg.LibDefaults.DefaultRealm = realm
	cfg.LibDefaults.DNSLookupKDC = len(kdcs) == 0
	setTypes(&cfg.LibDefaults, strongTypes)
	if len(kdcs) > 0 {
		entry := config.Realm{Realm: realm}
		for _, kdc := range kdcs {
			entry.KDC = append(entry.KDC, withPort(kdc, "88"))
		}
		cfg.Realms = []config.Realm{entry}
	}
	return cfg
}

// krb5Reader collects the settings of a krb5.conf and all it includes, in order.
type krb5Reader struct {
	readFile func(path string) ([]byte, error)
	readDir  func(path string) ([]string, error)
	files    int
	settings []krb5Setting
}

// krb5Setting is one "key = value" line with the section and subsections it stands in.
type krb5Setting struct {
	path  []string // section, subsections, key
	value string
}

func (r *krb5Reader) file(path string) error {
	r.files++
	if r.files > maxConfFiles {
		return fmt.Errorf("%s: too many files include each other", path)
	}
	raw, err := r.readFile(path)
	if err != nil {
		return fmt.Errorf("read Kerberos configuration: %w", err)
	}
	var where []string
	for number, line := range strings.Split(string(raw), "\n") {
		problem := func(what string) error { return fmt.Errorf("%s line %d: %s", path, number+1, what) }
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		directive, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		switch {
		case directive == "include" && !strings.HasPrefix(rest, "="):
			err = r.file(rest)
		case directive == "includedir" && !strings.HasPrefix(rest, "="):
			err = r.directory(rest)
		case directive == "module" && !strings.HasPrefix(rest, "="):
			err = problem("modules are not supported")
		case line[0] == '[':
			name, _, closed := strings.Cut(line[1:], "]")
			if !closed || len(where) > 1 {
				return problem("a section begins in the wrong place or has no ]")
			}
			where = []string{strings.ToLower(strings.TrimSpace(name))}
		case strings.TrimRight(line, "* \t") == "}":
			if len(where) < 2 {
				return problem("a } without its {")
			}
			where = where[:len(where)-1]
		default:
			key, value, ok := strings.Cut(line, "=")
			key, value = strings.TrimSuffix(strings.TrimSpace(key), "*"), strings.TrimSpace(value)
			if !ok || key == "" || len(where) == 0 {
				return problem(`neither a comment, a [section] nor "key = value" in a section`)
			}
			if value == "{" {
				if len(where) > maxConfNested {
					return problem("braces are nested too deep")
				}
				where = append(where, key)
				continue
			}
			r.settings = append(r.settings, krb5Setting{path: append(slices.Clone(where), key), value: strings.Trim(value, `"`)})
		}
		if err != nil {
			return err
		}
	}
	if len(where) > 1 {
		return fmt.Errorf("%s: a { is not closed at the end", path)
	}
	return nil
}

// directory reads the files of an includedir in the order of their names. One that is not there counts as empty.
func (r *krb5Reader) directory(path string) error {
	names, err := r.readDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Kerberos configuration: %w", err)
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if !krb5Name.MatchString(name) {
			continue
		}
		if err := r.file(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// first returns the first value of a setting.
func (r *krb5Reader) first(path ...string) (string, bool) {
	for _, s := range r.settings {
		if samePath(s.path, path) {
			return s.value, true
		}
	}
	return "", false
}

// samePath compares section and key; names of realms and hosts keep their case.
func samePath(a, b []string) bool {
	return slices.Equal(a, b) || (len(a) == 2 && len(b) == 2 && a[0] == b[0] && strings.EqualFold(a[1], b[1]))
}

func (r *krb5Reader) config() (*config.Config, error) {
	realm, _ := r.first("libdefaults", "default_realm")
	cfg := NewKrb5Conf(realm)
	lib := &cfg.LibDefaults
	var problems []error
	keep := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	keep(r.boolean("dns_lookup_kdc", &lib.DNSLookupKDC))
	keep(r.duration("clockskew", &lib.Clockskew))
	keep(r.duration("ticket_lifetime", &lib.TicketLifetime))
	keep(r.number("udp_preference_limit", &lib.UDPPreferenceLimit, 0, 32700))
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	r.encryption(lib)
	cfg.Realms = r.realms()
	for _, s := range r.settings {
		if len(s.path) == 2 && s.path[0] == "domain_realm" {
			if _, known := cfg.DomainRealm[s.path[1]]; !known {
				cfg.DomainRealm[s.path[1]] = s.value
			}
		}
	}
	return cfg, nil
}

func (r *krb5Reader) realms() []config.Realm {
	found := map[string]*config.Realm{}
	for _, s := range r.settings {
		if len(s.path) != 3 || s.path[0] != "realms" {
			continue
		}
		entry := found[s.path[1]]
		if entry == nil {
			entry = &config.Realm{Realm: s.path[1]}
			found[s.path[1]] = entry
		}
		// A KDC behind HTTPS (MS-KKDCP) is out of the library's reach.
		if s.path[2] == "kdc" && s.value != "" && !strings.Contains(s.value, "//") {
			entry.KDC = append(entry.KDC, withPort(s.value, "88"))
		}
	}
	var all []config.Realm
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, *found[name])
	}
	return all
}

// encryption takes over the encryption types that the library knows. A list of which it knows none is passed over.
func (r *krb5Reader) encryption(lib *config.LibDefaults) {
	known := func(option string) []string {
		value, _ := r.first("libdefaults", option)
		var types []string
		for name := range strings.FieldsFuncSeq(value, func(c rune) bool { return c == ' ' || c == ',' || c == '\t' }) {
			if etypeID.EtypeSupported(name) != 0 && !slices.Contains(types, name) {
				types = append(types, name)
			}
		}
		return types
	}
	if types := known("permitted_enctypes"); types != nil {
		setTypes(lib, types)
	}
	if types := known("default_tkt_enctypes"); types != nil {
		lib.DefaultTktEnctypes, lib.DefaultTktEnctypeIDs = types, typeIDs(types)
	}
	if types := known("default_tgs_enctypes"); types != nil {
		lib.DefaultTGSEnctypes, lib.DefaultTGSEnctypeIDs = types, typeIDs(types)
	}
}

func setTypes(lib *config.LibDefaults, types []string) {
	lib.PermittedEnctypes, lib.PermittedEnctypeIDs = types, typeIDs(types)
	lib.DefaultTktEnctypes, lib.DefaultTktEnctypeIDs = types, typeIDs(types)
	lib.DefaultTGSEnctypes, lib.DefaultTGSEnctypeIDs = types, typeIDs(types)
}

func typeIDs(types []string) []int32 {
	ids := make([]int32, 0, len(types))
	for _, name := range types {
		ids = append(ids, etypeID.EtypeSupported(name))
	}
	return ids
}

func (r *krb5Reader) boolean(option string, into *bool) error {
	value, ok := r.first("libdefaults", option)
	if !ok {
		return nil
	}
	switch strings.ToLower(value) {
	case "y", "yes", "true", "t", "1", "on":
		*into = true
	case "n", "no", "false", "nil", "0", "off":
		*into = false
	default:
		return fmt.Errorf("krb5.conf [libdefaults] %s: %.40q is neither true nor false", option, value)
	}
	return nil
}

func (r *krb5Reader) number(option string, into *int, least, most int) error {
	value, ok := r.first("libdefaults", option)
	if !ok {
		return nil
	}
	number, err := strconv.Atoi(value)
	if err != nil || number < least || number > most {
		return fmt.Errorf("krb5.conf [libdefaults] %s: %.40q is no number from %d to %d", option, value, least, most)
	}
	*into = number
	return nil
}

var (
	krb5Units = regexp.MustCompile(`^(?:(\d{1,6})\s*d)?\s*(?:(\d{1,6})\s*h)?\s*(?:(\d{1,6})\s*m)?\s*(?:(\d{1,9})\s*s?)?$`)
	krb5Clock = regexp.MustCompile(`^(\d{1,6}):(\d{1,2})(?::(\d{1,2}))?$`)
)

// duration reads the forms of krb5.conf: seconds, "h:m:s", "1d2h3m4s".
func (r *krb5Reader) duration(option string, into *time.Duration) error {
	value, ok := r.first("libdefaults", option)
	if !ok {
		return nil
	}
	parts, units := krb5Units.FindStringSubmatch(value), []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second}
	if parts == nil {
		parts, units = krb5Clock.FindStringSubmatch(value), []time.Duration{time.Hour, time.Minute, time.Second}
	}
	if parts == nil || value == "" {
		return fmt.Errorf("krb5.conf [libdefaults] %s: %.40q is no duration such as 86400, 24h or 1d2h", option, value)
	}
	var total time.Duration
	for i, unit := range units {
		if parts[i+1] != "" {
			count, _ := strconv.Atoi(parts[i+1])
			total += time.Duration(count) * unit
		}
	}
	*into = total
	return nil
}

// withPort adds the port to a host that names none.
func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// readLimited reads a configuration file that is not absurdly large.
func readLimited(path string) ([]byte, error) {
	about, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !about.Mode().IsRegular() || about.Size() > maxConfFile {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxConfFile)
	}
	return os.ReadFile(path)
}

func listFiles(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
