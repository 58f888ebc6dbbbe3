// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// readEnvironment reads MUSTER_SECTION__OPTION. Variables without the double
// underscore, such as MUSTER_CONFIG, are no options.
func (l *loader) readEnvironment(env map[string]string) {
	layer := newLayer()
	for _, variable := range slices.Sorted(maps.Keys(env)) {
		rest, ours := strings.CutPrefix(variable, "MUSTER_")
		at := strings.LastIndex(rest, "__")
		if !ours || at < 0 {
			continue
		}
		value := env[variable]
		p, why := l.findVariable(rest[:at], rest[at+2:])
		if why.message == "" && len(value) > maxValue {
			why = fileError{"a value of more than 64 KiB", "shorten it"}
		}
		if why.message != "" {
			l.fail(Problem{File: fromEnvironment, Option: shownVariable(variable), Message: why.message, Hint: why.hint})
			continue
		}
		l.add(layer, p, entry{text: value, origin: origin{file: fromEnvironment}})
	}
	l.apply(layer)
}

func shownVariable(variable string) string {
	if len(variable) > 128 {
		return variable[:128] + "..."
	}
	return variable
}

// findVariable finds the option of MUSTER_sec__opt. For a family it is of the
// member whose name becomes sec, or else of a new one with the name in lower case.
func (l *loader) findVariable(sec, opt string) (place, fileError) {
	var candidates []string
	for _, s := range l.sections {
		candidates = append(candidates, variableName(s.title()))
		fulls := l.variableSections(s, sec)
		if len(fulls) > 1 {
			return place{}, fileError{"several sections have this name in the environment",
				"set the option in the file: " + strings.Join(fulls, ", ")}
		}
		if len(fulls) == 0 {
			continue
		}
		p, ok := s.lookup(fulls[0], strings.ToLower(opt))
		if !ok || opt != strings.ToUpper(opt) {
			return place{}, fileError{"unknown option in section " + fulls[0],
				didYouMean(strings.ToLower(opt), l.namesIn(fulls[0]), "`muster config sample` prints all options")}
		}
		if s.family {
			l.addMember(s, fulls[0])
		}
		return p, fileError{}
	}
	return place{}, fileError{"unknown section in the variable's name",
		didYouMean(sec, candidates, "write MUSTER_SECTION__OPTION")}
}

// variableSections are the sections of the kind s that the environment calls sec.
func (l *loader) variableSections(s section, sec string) []string {
	if !s.family {
		if variableName(s.name) == sec {
			return []string{s.name}
		}
		return nil
	}
	member, ok := strings.CutPrefix(sec, variableName(s.name)+"_")
	if !ok || member == "" {
		return nil
	}
	var fulls []string
	for _, known := range l.members[s.name] {
		if variableName(known) == member {
			fulls = append(fulls, s.name+":"+known)
		}
	}
	if len(fulls) == 0 {
		return []string{s.name + ":" + strings.ToLower(member)}
	}
	return fulls
}

// variableName is a section's name in the environment.
func variableName(section string) string {
	return strings.Map(func(r rune) rune {
		if (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, strings.ToUpper(section))
}

// readCredentials reads systemd's credentials SECTION.OPTION, secrets only.
// Files that are called otherwise are somebody else's.
func (l *loader) readCredentials(dir string) {
	if dir == "" {
		return
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.fail(Problem{File: fromCredentials, Message: "the folder can't be read: " + cause(err),
			Hint: "check $CREDENTIALS_DIRECTORY"})
	}
	layer := newLayer()
	for _, file := range files {
		sec, opt, _ := strings.Cut(file.Name(), ".")
		i := slices.IndexFunc(l.sections, func(s section) bool { return s.name == sec && !s.family })
		if i < 0 {
			continue
		}
		o, ok := l.sections[i].option(opt)
		if !ok || !l.sections[i].isSecret(o) {
			l.fail(Problem{File: fromCredentials, Section: sec, Option: opt, Message: "not a secret option of Muster's",
				Hint: didYouMean(opt, l.secretsIn(l.sections[i]), "only secrets can be credentials")})
			continue
		}
		// systemd opens credentials to the service only, whatever the mode says.
		text, why := readSecret(filepath.Join(dir, file.Name()), o.exactBytes, false)
		if why != nil {
			l.fail(Problem{File: fromCredentials, Section: sec, Option: opt, Message: why.message, Hint: why.hint})
			l.failed[name{sec, opt}] = true
			continue
		}
		l.add(layer, place{name: name{sec, opt}, decl: o, secret: true},
			entry{text: text, literal: true, origin: origin{file: fromCredentials}})
	}
	l.apply(layer)
}

func (l *loader) secretsIn(s section) []string {
	var names []string
	for _, o := range s.options {
		if s.isSecret(o) {
			names = append(names, o.name)
		}
	}
	return names
}
