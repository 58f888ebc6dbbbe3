// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package description

import (
	"bytes"
	_ "embed"
	"html/template"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed page.html
var layout string

// element is a place in the document. What is not there is an empty element.
type element struct{ node, root *yaml.Node }

// resolved follows documents, aliases and references.
func (e element) resolved() element {
	for e.node != nil {
		switch {
		case e.node.Kind == yaml.DocumentNode:
			e.node = e.node.Content[0]
		case e.node.Kind == yaml.AliasNode:
			e.node = e.node.Alias
		case e.value("$ref") != "":
			path := strings.Split(strings.TrimPrefix(e.value("$ref"), "#/"), "/")
			e.node = e.root
			for _, key := range path {
				e.node = e.child(key)
			}
		default:
			return e
		}
	}
	return e
}

// child returns the node under a key, as it stands there.
func (e element) child(key string) *yaml.Node {
	if e.node != nil && e.node.Kind == yaml.MappingNode {
		for i := 0; i < len(e.node.Content); i += 2 {
			if e.node.Content[i].Value == key {
				return e.node.Content[i+1]
			}
		}
	}
	return nil
}

func (e element) value(key string) string {
	if n := e.child(key); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func (e element) at(key string) element { return element{e.child(key), e.root}.resolved() }

// each calls with the entries of a mapping or sequence, in their order.
func (e element) each(visit func(key string, entry element)) {
	if e.node == nil {
		return
	}
	step := 1
	if e.node.Kind == yaml.MappingNode {
		step = 2
	}
	for i := 0; i < len(e.node.Content); i += step {
		visit(e.node.Content[i].Value, element{e.node.Content[i+step-1], e.root}.resolved())
	}
}

// text is an element on one line, as JSON.
func (e element) text() string {
	if e.node == nil {
		return ""
	}
	var out bytes.Buffer
	if err := writeJSON(&out, e.node); err != nil {
		return ""
	}
	return out.String()
}

// page is what the template shows.
type page struct {
	Title, Version, Summary, Description string
	Tags                                 []*tag
}

type tag struct {
	Name, Description string
	Operations        []operation
}

type operation struct {
	ID, Method, Path, Summary, Description string
	Unversioned, Open                      bool
	Parameters, Body                       []field
	Example                                string
	Answers                                []answer
}

type field struct {
	Name, Place, Type, Limits, Description string
	Required                               bool
}

type answer struct {
	Status, Description, Types, Example string
	Headers, Fields                     []field
}

func render(document element) ([]byte, error) {
	info := document.at("info")
	p := page{Title: info.value("title"), Version: info.value("version"), Summary: info.value("summary"), Description: info.value("description")}
	byName := map[string]*tag{}
	document.at("tags").each(func(_ string, e element) {
		t := &tag{Name: e.value("name"), Description: e.value("description")}
		p.Tags, byName[t.Name] = append(p.Tags, t), t
	})
	document.at("paths").each(func(path string, methods element) {
		methods.each(func(method string, e element) {
			e.at("tags").each(func(name string, _ element) {
				byName[name].Operations = append(byName[name].Operations, newOperation(method, path, e))
			})
		})
	})
	parsed, err := template.New("page").Parse(layout)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = parsed.Execute(&out, p)
	return out.Bytes(), err
}

func newOperation(method, path string, e element) operation {
	o := operation{
		ID: e.value("operationId"), Method: strings.ToUpper(method), Path: path, Summary: e.value("summary"), Description: e.value("description"),
		Unversioned: e.value("x-unversioned") == "true", Open: e.child("security") != nil,
	}
	e.at("parameters").each(func(_ string, p element) {
		f := newField(p.value("name"), p.at("schema"), p.value("required") == "true")
		f.Place, f.Description = p.value("in"), p.value("description")
		o.Parameters = append(o.Parameters, f)
	})
	body := e.at("requestBody").at("content").at("application/json")
	o.Body, o.Example = fields("", body.at("schema")), body.at("example").text()
	e.at("responses").each(func(status string, r element) { o.Answers = append(o.Answers, newAnswer(status, r)) })
	return o
}

func newAnswer(status string, e element) answer {
	a := answer{Status: status, Description: e.value("description")}
	e.at("headers").each(func(name string, h element) {
		f := newField(name, h.at("schema"), true)
		f.Description = h.value("description")
		a.Headers = append(a.Headers, f)
	})
	var types []string
	e.at("content").each(func(kind string, content element) {
		types = append(types, kind)
		if status < "400" {
			a.Fields = append(a.Fields, fields("", content.at("schema"))...)
			a.Example += content.at("example").text()
		}
	})
	a.Types = strings.Join(types, ", ")
	return a
}

// fields lists those of an object, and of the objects and lists in it.
func fields(prefix string, schema element) []field {
	required := map[string]bool{}
	schema.at("required").each(func(name string, _ element) { required[name] = true })
	var all []field
	schema.at("properties").each(func(name string, e element) {
		all = append(all, newField(prefix+name, e, required[name]))
		if e.value("type") == "array" {
			all = append(all, fields(prefix+name+"[].", e.at("items"))...)
		} else {
			all = append(all, fields(prefix+name+".", e)...)
		}
	})
	return all
}

func newField(name string, schema element, required bool) field {
	f := field{Name: name, Required: required, Type: schema.value("type"), Description: schema.value("description")}
	if f.Type == "" {
		var types []string
		schema.at("type").each(func(one string, _ element) { types = append(types, one) })
		f.Type = strings.Join(types, " or ")
	}
	var limits []string
	for _, limit := range []struct{ key, text string }{
		{"const", "always "}, {"enum", "one of "}, {"minimum", "≥ "}, {"maximum", "≤ "}, {"minLength", "length ≥ "}, {"maxLength", "length ≤ "},
		{"maxItems", "entries ≤ "}, {"pattern", "matches "}, {"format", "format "},
	} {
		if text := schema.at(limit.key).text(); text != "" {
			limits = append(limits, limit.text+text)
		}
	}
	f.Limits = strings.Join(limits, ", ")
	return f
}
