// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds how deep mappings may lie in each other.
const maxDepth = 32

// Merge adds the boot script to an operator's static vendordata. A boot script
// that is in there already, of whatever version, is replaced, so that merging
// again changes nothing. What contradicts is left as the operator has it, and
// told in conflicts, one sentence each.
func Merge(data []byte) (merged []byte, conflicts []string, err error) {
	if err := checkSize(data); err != nil {
		return nil, nil, err
	}
	entries, err := parseDocument(data)
	if err != nil {
		return nil, nil, err
	}
	own, err := CloudConfig()
	if err != nil {
		return nil, nil, err
	}
	raw, found := entries.get(key)
	if !found {
		merged, err = encodeVendordata(entries.with(key, mustJSON(own)))
		return merged, nil, err
	}
	parts, err := parseParts(raw)
	if err != nil {
		return nil, nil, err
	}
	parts, conflicts, err = mergeParts(parts, own)
	if err != nil {
		return nil, nil, err
	}
	value := mustJSON(parts)
	if len(parts) == 1 {
		value = mustJSON(parts[0])
	}
	merged, err = encodeVendordata(entries.with(key, value))
	return merged, conflicts, err
}

// MergeConfig adds the boot script to an operator's cloud-config, by the rules
// of [Merge]. Comments stay where they are.
func MergeConfig(text []byte) (merged string, conflicts []string, err error) {
	if err := checkSize(text); err != nil {
		return "", nil, err
	}
	if !IsCloudConfig(string(text)) {
		return "", nil, fmt.Errorf("only a cloud-config can be merged with: its first line must be %s", Header)
	}
	own, err := CloudConfig()
	if err != nil {
		return "", nil, err
	}
	return mergeTexts(string(text), own)
}

// mergeParts puts the boot script into the operator's cloud-config, if that is
// the only part, else beside the parts that there are.
func mergeParts(parts []string, own string) ([]string, []string, error) {
	if len(parts) == 1 && IsCloudConfig(parts[0]) {
		merged, conflicts, err := mergeTexts(parts[0], own)
		return []string{merged}, conflicts, err
	}
	others := slices.DeleteFunc(slices.Clone(parts), func(part string) bool {
		return part == "" || (IsCloudConfig(part) && strings.Contains(part, marker) && isOwn(part))
	})
	return append(others, own), nil, nil
}

// isOwn tells whether a cloud-config holds nothing but a boot script.
func isOwn(text string) bool {
	var c config
	return yaml.Unmarshal([]byte(text), &c) == nil && len(c.RunCmd) == 1 && len(c.RunCmd[0]) == 3 &&
		strings.Contains(c.RunCmd[0][2], marker)
}

func mergeTexts(theirs, own string) (string, []string, error) {
	into, err := parseConfig(theirs)
	if err != nil {
		return "", nil, err
	}
	from, err := parseConfig(own)
	if err != nil {
		return "", nil, err
	}
	dropBootScript(into)
	m := merging{}
	if err := m.mapping(into, from, ""); err != nil {
		return "", nil, err
	}
	text, err := encodeConfig(into)
	return text, m.conflicts, err
}

// parseConfig reads a cloud-config's mapping. An empty one is an empty mapping.
// The header goes; what is written gets a new one.
func parseConfig(text string) (*yaml.Node, error) {
	_, body, _ := strings.Cut(text, "\n")
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(body), &doc); err != nil {
		// yaml's message quotes what it read only by its line and its kind.
		return nil, fmt.Errorf("the cloud-config is not valid YAML: %w", err)
	}
	if len(doc.Content) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("the cloud-config must be a mapping of keys such as runcmd")
	}
	return root, checkNode(root, 0)
}

// checkNode refuses what can't be merged by looking at it: aliases, keys that
// come twice, and mappings without end.
func checkNode(node *yaml.Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("line %d: the cloud-config is nested too deeply", node.Line+1)
	}
	if node.Kind == yaml.AliasNode {
		return fmt.Errorf("line %d: the cloud-config has an alias (*name); write out what it stands for", node.Line+1)
	}
	seen := map[string]bool{}
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if seen[child.Value] {
				return fmt.Errorf("line %d: the key %.60q comes twice", child.Line+1, child.Value)
			}
			seen[child.Value] = true
		}
		if err := checkNode(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// dropBootScript takes boot scripts out of runcmd.
func dropBootScript(root *yaml.Node) {
	commands := child(root, "runcmd")
	if commands == nil || commands.Kind != yaml.SequenceNode {
		return
	}
	commands.Content = slices.DeleteFunc(commands.Content, func(command *yaml.Node) bool {
		return slices.ContainsFunc(append(slices.Clone(command.Content), command), func(word *yaml.Node) bool {
			return strings.Contains(word.Value, marker)
		})
	})
}

// child is the value of a mapping's key, or nil.
func child(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// merging collects what contradicts.
type merging struct{ conflicts []string }

// mapping adds the keys of one mapping to another one.
func (m *merging) mapping(into, from *yaml.Node, path string) error {
	for i := 0; i+1 < len(from.Content); i += 2 {
		name, value := from.Content[i], from.Content[i+1]
		there := child(into, name.Value)
		if there == nil {
			into.Content = append(into.Content, name, value)
			continue
		}
		if err := m.value(there, value, path+name.Value); err != nil {
			return err
		}
	}
	return nil
}

// value merges two values of the same key: mappings by their keys, and lists by
// what is not in both, ours first. A single value stays as the operator has it.
func (m *merging) value(into, from *yaml.Node, path string) error {
	switch {
	case same(into, from):
	case into.Kind != from.Kind:
		return fmt.Errorf("line %d: %s is not of the kind that cloud-init wants; correct it first", into.Line+1, path)
	case into.Kind == yaml.MappingNode:
		return m.mapping(into, from, path+".")
	case into.Kind == yaml.SequenceNode:
		fresh := slices.DeleteFunc(slices.Clone(from.Content), func(item *yaml.Node) bool {
			return slices.ContainsFunc(into.Content, func(other *yaml.Node) bool { return same(item, other) })
		})
		into.Content = append(fresh, into.Content...)
		into.Style &^= yaml.FlowStyle // a script within one line is nothing to read
	default:
		m.conflicts = append(m.conflicts, fmt.Sprintf("line %d: %s stays %q, where Muster has %q: %s",
			into.Line+1, path, into.Value, from.Value,
			"check that a user's runcmd does not take the place of the vendor's"))
	}
	return nil
}

// same tells whether two values say the same.
func same(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, same)
}
