// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
)

const (
	mainFile   = "/etc/ssh/sshd_config"
	vendorFile = "/usr/etc/ssh/sshd_config" // where SUSE keeps it, while there is no mainFile
	dropFolder = "/etc/ssh/sshd_config.d"
	// maxDepth is sshd's limit of Include within Include.
	maxDepth = 16
)

// dropNames are names of Muster's file, each sorting before the one before as
// glob(3) sorts in the C locale. Only one is there at a time.
var dropNames = []string{"00-muster.conf", "0-muster.conf", "!muster.conf"}

// here stands in a scan where Muster's settings would be.
const here = "muster's settings"

// directive is one line of the configuration, in the order in which sshd reads
// them.
type directive struct {
	key   string // in lower case
	args  []string
	match bool // inside a Match block that is not for everybody
	// block: inside any Match block. What stands there goes before what does not,
	// also where the block is for everybody ("Match all").
	block bool
	// from: inside a Match block that goes by where a connection comes from or arrives, which
	// nobody can ask sshd about beforehand.
	from bool
}

// byConnection are the criteria of Match that go by the connection (sshd_config(5)).
var byConnection = []string{"address", "host", "localaddress", "localport", "rdomain"}

// scan reads the configuration without Muster's part, and marks where Muster's
// file would be read, if it were named own.
type scan struct {
	tree  *files.Tree
	own   string
	found []directive
}

// scanConfig reads what sshd reads.
func scanConfig(tree *files.Tree, own string) ([]directive, error) {
	s := &scan{tree: tree, own: own}
	err := s.file(mainConfig(tree), directive{}, 0)
	return s.found, err
}

// mainConfig is the file with which sshd begins.
func mainConfig(tree *files.Tree) string {
	if !tree.Exists(mainFile) && tree.Exists(vendorFile) {
		return vendorFile
	}
	return mainFile
}

// file reads one file, which stands where in says. What comes after it stands
// there again, whatever blocks the file begins.
func (s *scan) file(name string, in directive, depth int) error {
	if name == s.own {
		s.found = append(s.found, directive{key: here, match: in.match, block: in.block})
		return nil
	}
	if path.Dir(name) == dropFolder && slices.Contains(dropNames, path.Base(name)) {
		return nil
	}
	content, err := s.tree.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(files.Strip(content))) {
		key, args := split(line)
		switch key {
		case "":
			continue
		case "match":
			in.match, in.block = len(args) != 1 || !strings.EqualFold(args[0], "all"), true
			in.from = slices.ContainsFunc(criteria(args), func(name string) bool { return slices.Contains(byConnection, name) })
			continue
		case "include":
			if depth >= maxDepth {
				continue
			}
			for _, pattern := range args {
				if err := s.include(pattern, in, depth+1); err != nil {
					return err
				}
			}
			continue
		}
		s.found = append(s.found, directive{key: key, args: args, match: in.match, block: in.block, from: in.from})
	}
	return nil
}

// criteria are the names, in lower case, of what a Match line goes by: "User a Address b", "user=a".
func criteria(args []string) (names []string) {
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(strings.ToLower(args[i]), "=")
		names = append(names, name)
		if !whole && !slices.Contains([]string{"all", "canonical", "final", "invalid-user"}, name) {
			i++ // its value
		}
	}
	return names
}

// include reads the files of a pattern in the order of their names, as glob(3)
// gives them. Patterns in folders' names are not followed.
func (s *scan) include(pattern string, in directive, depth int) error {
	if !path.IsAbs(pattern) {
		pattern = path.Join("/etc/ssh", pattern)
	}
	dir := path.Dir(pattern)
	names, err := s.tree.List(dir)
	if err != nil {
		return err
	}
	if path.Dir(s.own) == dir && !slices.Contains(names, path.Base(s.own)) {
		names = append(names, path.Base(s.own))
		slices.Sort(names)
	}
	for _, name := range names {
		if !fits(pattern, name) {
			continue
		}
		if err := s.file(path.Join(dir, name), in, depth); err != nil {
			return err
		}
	}
	return nil
}

// fits reports whether a pattern of files fits a name in its folder, as glob(3)
// has it.
func fits(pattern, name string) bool {
	pattern = path.Base(pattern)
	is, err := path.Match(pattern, name)
	return err == nil && is && (!strings.HasPrefix(name, ".") || strings.HasPrefix(pattern, "."))
}

// split takes a line apart: "Keyword a b", "keyword=a", quotes around words,
// and comments.
func split(line string) (key string, args []string) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil
	}
	end := strings.IndexAny(line, " \t=\"")
	if end < 0 {
		return strings.ToLower(line), nil
	}
	key = strings.ToLower(line[:end])
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for rest != "" && rest[0] != '#' {
		var word string
		if rest[0] == '"' {
			word, rest, _ = strings.Cut(rest[1:], `"`)
		} else if stop := strings.IndexAny(rest, " \t"); stop >= 0 {
			word, rest = rest[:stop], rest[stop:]
		} else {
			word, rest = rest, ""
		}
		args = append(args, word)
		rest = strings.TrimLeft(rest, " \t")
	}
	return key, args
}
