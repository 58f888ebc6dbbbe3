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

// Merge adds the boot script to an operator's static vendordata, as one more
// part beside those that are there, in whichever form they are. A boot script that is in there already, of
// whatever version and kind, is replaced, so that merging again changes nothing.
func Merge(data []byte) ([]byte, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	v, err := parseVendordata(data)
	if err != nil {
		return nil, err
	}
	parts, err := withoutBootScript(v.parts)
	if err != nil {
		return nil, err
	}
	own, err := archive()
	if err != nil {
		return nil, err
	}
	return v.encode(append(parts, own))
}

// withoutBootScript returns the parts that have something else in them. Those
// without a boot script stay as they are, to the letter.
func withoutBootScript(parts []string) ([]string, error) {
	var others []string
	for _, part := range parts {
		if IsCloudConfig(part) {
			config, err := parseConfig(part)
			if err != nil {
				return nil, err
			}
			if strings.Contains(part, marker) {
				if part, err = editConfig(config, dropBootScript); err != nil {
					return nil, err
				}
			}
		}
		if part != "" && !strings.Contains(part, marker) {
			others = append(others, part)
		}
	}
	return others, nil
}

// MergeConfig adds the boot script to an operator's cloud-config, before what
// that runs. A boot script that is in there already is replaced. Comments stay
// where they are.
func MergeConfig(text []byte) (string, error) {
	if err := checkSize(text); err != nil {
		return "", err
	}
	if !IsCloudConfig(string(text)) {
		return "", fmt.Errorf("only a cloud-config can be merged with: its first line must be %s", Header)
	}
	config, err := parseConfig(string(text))
	if err != nil {
		return "", err
	}
	return editConfig(config, func(root *yaml.Node) error {
		if err := dropBootScript(root); err != nil {
			return err
		}
		return addBootScript(root)
	})
}

// editConfig writes the changed cloud-config; one in which nothing is left is
// empty.
func editConfig(root *yaml.Node, edit func(*yaml.Node) error) (string, error) {
	if err := checkNode(root, 0); err != nil {
		return "", err
	}
	if err := edit(root); err != nil || len(root.Content) == 0 {
		return "", err
	}
	return encodeConfig(root)
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
	return root, nil
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

// dropBootScript takes boot scripts out of runcmd, which goes with the last of
// its commands.
func dropBootScript(root *yaml.Node) error {
	commands := child(root, runCmd)
	if commands == nil {
		return nil
	}
	if commands.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: %s is no list; correct it first", commands.Line+1, runCmd)
	}
	before := len(commands.Content)
	commands.Content = slices.DeleteFunc(commands.Content, func(command *yaml.Node) bool {
		return slices.ContainsFunc(append(slices.Clone(command.Content), command), func(word *yaml.Node) bool {
			return strings.Contains(word.Value, marker)
		})
	})
	if before > 0 && len(commands.Content) == 0 {
		i := slices.Index(root.Content, commands)
		root.Content = slices.Delete(root.Content, i-1, i+1)
	}
	return nil
}

// addBootScript makes the boot script the first command.
func addBootScript(root *yaml.Node) error {
	var own yaml.Node
	if err := own.Encode(bootCommand()); err != nil {
		return err
	}
	commands := child(root, runCmd)
	if commands == nil {
		commands = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: runCmd}, commands)
	}
	commands.Content = append([]*yaml.Node{&own}, commands.Content...)
	return nil
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
