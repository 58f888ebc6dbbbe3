// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds a policy file, in bytes. Nova's, with every default
// written out, is a tenth of it.
const maxFileSize = 1 << 20

// source is a rule before it is parsed.
type source struct {
	name, file string
	line       int
	text       string
	isList     bool
	list       [][]string // the old form
}

// readFile reads the rules of a policy file, YAML or JSON.
func readFile(path string) ([]source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("policy file %s: %w", path, err)
	}
	return parseFile(path, data)
}

// parseFile reads the rules in data. path is used in errors only.
func parseFile(path string, data []byte) ([]source, error) {
	if len(data) > maxFileSize {
		return nil, &Error{File: path, Reason: fmt.Sprintf("larger than %d bytes", maxFileSize)}
	}
	if json.Valid(data) {
		// JSON is YAML, but for tabs as white space; in valid JSON no tab is anything else.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, &Error{File: path, Reason: fmt.Sprintf("neither YAML nor JSON: %v", err)}
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &Error{File: path, Reason: "more than one YAML document"}
	}
	if len(document.Content) != 1 {
		return nil, nil
	}
	root := document.Content[0]
	if root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &Error{File: path, Line: root.Line, Reason: `no rules: want lines of the form "NAME": "RULE"`}
	}
	return readRules(path, root)
}

func readRules(path string, root *yaml.Node) ([]source, error) {
	var sources []source
	var faults []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if !isText(key) {
			faults = append(faults, &Error{File: path, Line: key.Line, Reason: "the name of a rule must be text; quote it"})
			continue
		}
		s := source{name: key.Value, file: path, line: key.Line}
		if err := s.read(value); err != nil {
			faults = append(faults, &Error{File: path, Line: value.Line, Rule: key.Value, Reason: err.Error()})
			continue
		}
		sources = append(sources, s)
	}
	return sources, errors.Join(faults...)
}

func isText(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!str" }

var (
	errNoValue = errors.New(`has no rule; write "@" to allow everybody, or "!" to allow nobody`)
	errNotText = errors.New("must be text in quotes, or a list of lists of checks")
)

// read takes a rule's value. oslo.policy reads null, 0 and false as "allow
// everybody"; nobody means that, so they are refused.
func (s *source) read(value *yaml.Node) error {
	switch {
	case isText(value):
		s.text = value.Value
		return nil
	case value.Kind == yaml.SequenceNode:
		s.isList = true
		return s.readList(value)
	case value.Tag == "!!null":
		return errNoValue
	default:
		return errNotText
	}
}

func (s *source) readList(outer *yaml.Node) error {
	s.list = make([][]string, 0, len(outer.Content))
	for _, inner := range outer.Content {
		if isText(inner) {
			if inner.Value == "" {
				s.list = append(s.list, nil)
				continue
			}
			s.list = append(s.list, []string{inner.Value})
			continue
		}
		if inner.Kind != yaml.SequenceNode {
			return errNotText
		}
		all := make([]string, 0, len(inner.Content))
		for _, c := range inner.Content {
			if !isText(c) {
				return errNotText
			}
			all = append(all, c.Value)
		}
		s.list = append(s.list, all)
	}
	return nil
}
