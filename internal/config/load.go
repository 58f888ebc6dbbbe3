// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Options say where Load reads from.
type Options struct {
	Path           string                 // of --config; empty: $MUSTER_CONFIG, else DefaultPath, which may be missing
	Environ        []string               // as os.Environ returns it
	CredentialsDir string                 // empty: $CREDENTIALS_DIRECTORY, as systemd sets it
	Hostname       func() (string, error) // nil: os.Hostname
	// Section is the only one that matters: what is wrong with others is passed
	// over. Empty: all do.
	Section string
}

// Load reads the configuration: the defaults, the file, muster.conf.d/*.conf
// beside it in the order of their names (after the file's own name: x.conf has
// x.conf.d), the environment, and systemd's credentials. What comes later wins.
//
// The error is of type Problems and holds all that is wrong, not only the
// first. A configuration that Load accepts may still lack what the server
// needs: see Complete.
func Load(o Options) (*Config, error) {
	env := environment(o.Environ)
	path := cmp.Or(o.Path, env["MUSTER_CONFIG"], DefaultPath)
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, Problems{{File: path, Message: "the path can't be made absolute",
			Hint: "give the file's absolute path"}}
	}
	l := newLoader(path)
	l.readFiles(o.Path != "" || env["MUSTER_CONFIG"] != "")
	l.readEnvironment(env)
	l.readCredentials(cmp.Or(o.CredentialsDir, env["CREDENTIALS_DIRECTORY"]))

	cfg := l.build()
	if cfg.Host == "" {
		l.setHost(cfg, o.Hostname)
	}
	(&rules{cfg: cfg, failed: l.failed}).check(&l.problems)
	if o.Section != "" {
		l.problems = slices.DeleteFunc(l.problems, func(p Problem) bool { return p.Section != "" && p.Section != o.Section })
	}
	if err := l.problems.orNil(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// setHost names the replica after the machine.
func (l *loader) setHost(cfg *Config, hostname func() (string, error)) {
	if hostname == nil {
		hostname = os.Hostname
	}
	host, err := hostname()
	if err != nil || host == "" {
		l.fail(Problem{File: l.path, Section: "DEFAULT", Option: "host",
			Message: "the machine has no host name", Hint: "set host"})
	}
	cfg.Host = host
}

// name is an option's place: its section as it stands in a file, and itself.
type name struct{ section, option string }

// entry is what a source says about an option.
type entry struct {
	text    string
	literal bool // from a secret's own file: no references in it
	origin  origin
}

type loader struct {
	path     string
	sections []section
	members  map[string][]string // of each family
	entries  map[name]entry
	failed   map[name]bool
	problems Problems
	warnings Problems
	files    []namedFile // that were read
}

func newLoader(path string) *loader {
	return &loader{
		path: path, sections: table(), members: map[string][]string{},
		entries: map[name]entry{}, failed: map[name]bool{},
	}
}

func (l *loader) fail(p Problem) { l.problems = append(l.problems, p) }

// place is where an option that was found by some name belongs.
type place struct {
	name
	decl     option
	secret   bool
	fromFile bool // the name was OPTION_file
	former   int  // 0: the present name; else which of the former ones, from 1
}

// lookup finds the option that a file calls [sec] opt.
func (l *loader) lookup(sec, opt string) (place, bool) {
	for _, s := range l.sections {
		full, ok := s.match(sec)
		if !ok {
			continue
		}
		if p, ok := s.lookup(full, opt); ok {
			return p, true
		}
	}
	for _, s := range l.sections {
		for _, o := range s.options {
			if i := slices.Index(o.deprecated, oldName{normal(sec), opt}); i >= 0 {
				return place{name: name{s.name, o.name}, decl: o, secret: s.isSecret(o), former: i + 1}, true
			}
		}
	}
	return place{}, false
}

// lookup finds opt, or the secret whose OPTION_file it is, in s, which is
// called full here.
func (s section) lookup(full, opt string) (place, bool) {
	if o, ok := s.option(opt); ok {
		return place{name: name{full, o.name}, decl: o, secret: s.isSecret(o)}, true
	}
	base, is := strings.CutSuffix(opt, "_file")
	if o, ok := s.option(base); is && ok && s.isSecret(o) {
		return place{name: name{full, o.name}, decl: o, secret: true, fromFile: true}, true
	}
	return place{}, false
}

// isSecret asks a scratch configuration for the field's type.
func (s section) isSecret(o option) bool { return o.secret(s.target(&Config{}, "")) }

// match tells whether a file's [written] is this section, and its name in
// normal form. Like oslo.config it takes any case but for DEFAULT.
func (s section) match(written string) (full string, ok bool) {
	if !s.family {
		return s.name, s.name == normal(written)
	}
	family, member, found := strings.Cut(written, ":")
	if !found || normal(family) != s.name || strings.TrimFunc(member, isSpace) == "" {
		return "", false
	}
	return s.name + ":" + member, true
}

// normal is oslo.config's normal form of a section's name.
func normal(section string) string {
	if section == "DEFAULT" {
		return section
	}
	return strings.ToLower(section)
}

// layer collects what one source says, before it replaces what earlier ones said.
type layer struct {
	entries map[name]entry
	places  map[name]place
}

func newLayer() *layer { return &layer{map[name]entry{}, map[name]place{}} }

// add records e for p. In one file the present name wins over former ones, and
// these win in the order of the table; else the last wins.
func (l *loader) add(to *layer, p place, e entry) {
	before, twice := to.places[p.name]
	if twice && before.fromFile != p.fromFile {
		l.fail(Problem{File: e.origin.file, Line: e.origin.line, Section: p.section, Option: p.option,
			Message: "set both directly and by " + p.option + "_file", Hint: "keep one of them"})
		l.failed[p.name] = true
		return
	}
	if twice && p.former > before.former {
		return
	}
	to.places[p.name], to.entries[p.name] = p, e
}

// apply lets the layer win over all before it. Secrets that it only names by
// their files are read now.
func (l *loader) apply(from *layer) {
	for _, key := range slices.SortedFunc(maps.Keys(from.entries), compareNames) {
		e, p := from.entries[key], from.places[key]
		if p.fromFile {
			secret, err := readSecret(l.absolute(e.text), p.decl.exactBytes, true)
			if err != nil {
				l.fail(Problem{File: e.origin.file, Line: e.origin.line, Section: p.section,
					Option: p.option + "_file", Message: err.message, Hint: err.hint})
				l.failed[key] = true
				continue
			}
			l.files = append(l.files, namedFile{l.absolute(e.text),
				Problem{File: e.origin.file, Line: e.origin.line, Section: p.section, Option: p.option + "_file"}})
			e.text, e.literal = secret, true
		}
		l.entries[key] = e
	}
}

func compareNames(a, b name) int {
	return cmp.Or(cmp.Compare(a.section, b.section), cmp.Compare(a.option, b.option))
}

// addMember notes that the section full, of the family s, is there.
func (l *loader) addMember(s section, full string) {
	_, member, _ := strings.Cut(full, ":")
	if !slices.Contains(l.members[s.name], member) {
		l.members[s.name] = append(l.members[s.name], member)
	}
}

// absolute makes a path absolute from the folder of the configuration.
func (l *loader) absolute(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(l.path), path)
}
