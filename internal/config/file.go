// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	fromEnvironment = "environment"
	fromCredentials = "credentials"
	maxSecret       = 64 << 10 // of a secret's own file
	maxValue        = 64 << 10 // of one option
)

// readFiles reads the file and the folder beside it. Only the default file
// may be missing.
func (l *loader) readFiles(required bool) {
	_, err := os.Stat(l.path)
	if required || !errors.Is(err, fs.ErrNotExist) {
		l.readFile(l.path)
	}
	folder := l.path + ".d"
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.fail(Problem{File: folder, Message: "the folder can't be read: " + cause(err),
			Hint: "let the service's user read it, or remove it"})
	}
	for _, e := range entries { // sorted by name
		if strings.HasSuffix(e.Name(), ".conf") {
			l.readFile(filepath.Join(folder, e.Name()))
		}
	}
}

func (l *loader) readFile(path string) {
	text, mode, err := readBounded(path, maxFile)
	if err != nil {
		l.fail(Problem{File: path, Message: err.message, Hint: err.hint})
		return
	}
	l.files = append(l.files, namedFile{path, Problem{File: path}})
	l.readText(path, string(text), mode)
}

// readText takes in a file's text. A syntax error ends the file, but what
// stands above it is judged too.
func (l *loader) readText(path, text string, mode fs.FileMode) {
	doc, syntax := parseINI(text)
	if syntax != nil {
		l.fail(Problem{File: path, Line: syntax.line, Message: syntax.message, Hint: syntax.hint})
	}
	for _, h := range doc.headers {
		l.addHeader(path, h)
	}
	open := mode.Perm()&0o007 != 0
	layer := newLayer()
	for _, a := range doc.assignments {
		p, ok := l.find(path, a)
		if !ok {
			continue
		}
		if open && p.secret && !p.fromFile && concealed(a.value) != a.value {
			open = false // say it once
			l.fail(Problem{File: path, Line: a.line, Section: p.section, Option: p.option,
				Message: "a secret in a file that every user of the machine can open",
				Hint:    "chmod 0640 the file, or move the secret to a file of its own with " + p.option + "_file"})
		}
		if p.former > 0 {
			l.warnings = append(l.warnings, Problem{File: path, Line: a.line, Section: normal(a.section),
				Option: a.key, Message: "an old name", Hint: "use [" + p.section + "] " + p.option})
		}
		l.add(layer, p, entry{text: a.value, origin: origin{path, a.line}})
	}
	l.apply(layer)
}

// addHeader judges a section line.
func (l *loader) addHeader(path string, h header) {
	for _, s := range l.sections {
		if full, ok := s.match(h.section); ok {
			if s.family {
				l.addMember(s, full)
			}
			return
		}
	}
	if slices.Contains(l.oldSections(), normal(h.section)) {
		return
	}
	l.fail(Problem{File: path, Line: h.line, Section: shown(h.section), Message: "unknown section",
		Hint: l.suggestSection(h.section)})
}

// find finds the option that an assignment is for, or says why there is none.
func (l *loader) find(path string, a assignment) (place, bool) {
	problem := Problem{File: path, Line: a.line, Section: shown(a.section), Option: shown(a.key)}
	p, ok := l.lookup(a.section, a.key)
	switch {
	case ok && len(a.value) > maxValue:
		problem.Message, problem.Hint = "a value of more than 64 KiB", "shorten it"
	case ok:
		return p, true
	case l.idle(a) != "":
		problem.Message, problem.Hint = "an option that changes nothing here", l.idle(a)
		l.warnings = append(l.warnings, problem)
		return p, false
	default:
		names := l.namesIn(a.section)
		if len(names) == 0 {
			return p, false // the section is unknown: said already
		}
		problem.Message = "unknown option"
		problem.Hint = didYouMean(a.key, names, "`muster config sample` prints all options")
	}
	l.fail(problem)
	return p, false
}

// idle says why an option of another program changes nothing, or "" if it is none.
func (l *loader) idle(a assignment) string {
	for _, s := range l.sections {
		if _, ok := s.match(a.section); ok && s.idle[normal(a.key)] != "" {
			return s.idle[normal(a.key)]
		}
	}
	return ""
}

// namesIn lists all names that an option may have in a section, present and
// former.
func (l *loader) namesIn(written string) []string {
	var names []string
	for _, s := range l.sections {
		_, here := s.match(written)
		for _, o := range s.options {
			if here {
				names = append(names, o.name)
			}
			if here && s.isSecret(o) {
				names = append(names, o.name+"_file")
			}
			for _, old := range o.deprecated {
				if old.section == normal(written) {
					names = append(names, old.option)
				}
			}
		}
	}
	return names
}

func (l *loader) oldSections() []string {
	var names []string
	for _, s := range l.sections {
		for _, o := range s.options {
			for _, old := range o.deprecated {
				names = append(names, old.section)
			}
		}
	}
	return names
}

func (l *loader) suggestSection(written string) string {
	family, member, found := strings.Cut(written, ":")
	var titles []string
	for _, s := range l.sections {
		titles = append(titles, "["+s.title()+"]")
		if s.family && found && member != "" && nearest(family, []string{s.name}) != "" {
			return "did you mean [" + s.name + ":NAME]?"
		}
	}
	return didYouMean("["+written+"]", titles, "the sections are "+strings.Join(titles, ", "))
}

// A piece of a broken multi-line secret may look like an option's name: what
// is not surely a name is not repeated.
var nameShape = regexp.MustCompile(`^(?:[a-z][a-z0-9_-]{0,39}|DEFAULT)(?::[A-Za-z0-9 ._-]{1,64})?$`)

func shown(written string) string {
	if nameShape.MatchString(written) {
		return written
	}
	return "(name not shown)"
}

// environment turns os.Environ's list into a map.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, v := range environ {
		if key, value, ok := strings.Cut(v, "="); ok {
			env[key] = value
		}
	}
	return env
}

// fileError says why a file can't be used, in words for the operator.
type fileError struct{ message, hint string }

// readSecret reads a secret's own file. A line feed at the end is an editor's
// habit and no part of it, unless exact. With private, a file that all users
// may open is refused.
func readSecret(path string, exact, private bool) (string, *fileError) {
	text, mode, err := readBounded(path, maxSecret)
	switch {
	case err != nil:
		return "", err
	case private && mode.Perm()&0o007 != 0:
		return "", &fileError{"the file can be opened by every user of the machine", "chmod 0600 or 0640 the file"}
	case len(text) == 0:
		return "", &fileError{"the file is empty", "write the secret into it"}
	case exact:
		return string(text), nil
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if strings.ContainsAny(secret, "\x00\n") {
		return "", &fileError{"the file holds more than one line of text", "keep only the secret in it"}
	}
	return secret, nil
}

// readBounded reads a regular file of at most limit bytes, never a device or
// pipe that it would wait for.
func readBounded(path string, limit int64) ([]byte, fs.FileMode, *fileError) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, unreadable(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, &fileError{"not a regular file", "name a file with text"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, unreadable(err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, unreadable(err)
	}
	if int64(len(text)) > limit {
		return nil, 0, &fileError{"the file is too big", "check that it is the right file"}
	}
	return text, info.Mode(), nil
}

func unreadable(err error) *fileError {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fileError{"the file is not there", "create it, or correct its path"}
	case errors.Is(err, fs.ErrPermission):
		return &fileError{"the file can't be opened: permission denied", "let the service's user read it"}
	}
	return &fileError{"the file can't be read: " + cause(err), "check it and the file system"}
}

// cause is what the system said, without the path.
func cause(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
