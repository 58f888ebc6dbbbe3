// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package description is the face that shows what the others answer: an
// OpenAPI 3.1 document for programs, and the same as a page for people.
//
// The document is written by hand, in openapi.yaml, and tests hold every
// answer of the other faces against it. It is the same for everybody and
// holds nothing about this installation but the program's version.
package description

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"

	"go.yaml.in/yaml/v3"

	"github.com/muster-cloud/muster/internal/api"
)

//go:embed openapi.yaml
var source []byte

// contentPolicy lets the page show itself and load nothing.
const contentPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Face answers with the description.
type Face struct {
	document, page []byte
}

// New returns the face for a version of the program.
func New(version string) (*Face, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(source, &root); err != nil {
		return nil, fmt.Errorf("the API's description: %w", err)
	}
	document := element{node: &root, root: &root}.resolved()
	document.root = document.node
	document.at("info").at("version").node.Value = version
	var out bytes.Buffer
	if err := writeJSON(&out, document.node); err != nil {
		return nil, fmt.Errorf("the API's description: %w", err)
	}
	page, err := render(document)
	if err != nil {
		return nil, fmt.Errorf("the API's page: %w", err)
	}
	return &Face{document: out.Bytes(), page: page}, nil
}

// Name implements api.Face.
func (f *Face) Name() string { return "description" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	router.Handle("GET /openapi.json", func(*api.Request) (api.Response, error) {
		return api.Response{Raw: f.document, Header: http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"}}}, nil
	})
	router.Handle("GET /docs", func(*api.Request) (api.Response, error) {
		return api.Response{Raw: f.page, Header: http.Header{
			"Content-Type": {"text/html; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"},
			"Content-Security-Policy": {contentPolicy}, "Referrer-Policy": {"no-referrer"},
		}}, nil
	})
}

// writeJSON writes YAML as JSON and keeps the order of its keys.
func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.AliasNode:
		return writeJSON(out, node.Alias)
	case yaml.MappingNode:
		return writeList(out, "{}", len(node.Content)/2, func(i int) error {
			key, err := json.Marshal(node.Content[2*i].Value)
			if err != nil {
				return err
			}
			out.Write(key)
			out.WriteByte(':')
			return writeJSON(out, node.Content[2*i+1])
		})
	case yaml.SequenceNode:
		return writeList(out, "[]", len(node.Content), func(i int) error { return writeJSON(out, node.Content[i]) })
	default:
		var value any
		if err := node.Decode(&value); err != nil {
			return err
		}
		text, err := json.Marshal(value)
		out.Write(text)
		return err
	}
}

func writeList(out *bytes.Buffer, brackets string, entries int, write func(int) error) error {
	out.WriteByte(brackets[0])
	for i := range entries {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := write(i); err != nil {
			return err
		}
	}
	out.WriteByte(brackets[1])
	return nil
}
