// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// form is what static vendordata is as JSON: cloud-init takes an object, of
// which it reads one key, and what that key may hold (sources.convert_vendordata
// of cloud-init).
type form int

const (
	anObject form = iota
	aText
	aList
)

// vendordata is Nova's static vendordata.
type vendordata struct {
	form     form
	entries  document // of an object
	hasParts bool     // false for an object without the key
	parts    []string // for cloud-init
}

// IsVendordata reports whether data can only be vendordata, which is JSON, and
// nothing that cloud-init takes as user-data.
func IsVendordata(data []byte) bool {
	data = bytes.TrimSpace(data)
	return len(data) > 0 && bytes.IndexByte([]byte(`{["`), data[0]) >= 0
}

func parseVendordata(data []byte) (vendordata, error) {
	var v vendordata
	raw := json.RawMessage(bytes.TrimSpace(data))
	switch {
	case bytes.HasPrefix(raw, []byte("[")):
		v.form = aList
	case bytes.HasPrefix(raw, []byte(`"`)):
		v.form = aText
	default:
		var err error
		if v.entries, err = parseDocument(data); err != nil {
			return v, err
		}
		if raw, v.hasParts = v.entries.get(key); !v.hasParts {
			return v, nil
		}
	}
	v.hasParts = true
	if json.Unmarshal(raw, &v.parts) == nil {
		return v, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		v.parts = []string{text}
		return v, nil
	}
	switch {
	case !json.Valid(raw):
		return v, errors.New("the vendordata is not valid JSON")
	case v.form == anObject:
		return v, fmt.Errorf("%q must be a text or a list of texts", key)
	}
	return v, errors.New("vendordata that is a list must be one of texts")
}

// encode writes the vendordata with these parts. One alone is a text, unless it
// was in a list; several make a list of a text.
func (v vendordata) encode(parts []string) ([]byte, error) {
	value := mustJSON(parts)
	if len(parts) == 1 && v.form != aList {
		value = mustJSON(parts[0])
	}
	if v.form == anObject {
		return encodeVendordata(v.entries.with(key, value))
	}
	var out bytes.Buffer
	if err := json.Indent(&out, value, "", "  "); err != nil {
		return nil, err
	}
	out.WriteString("\n")
	return out.Bytes(), nil
}

// document is a JSON object that keeps the order of its keys, so that an
// operator finds their file again.
type document []entry

type entry struct {
	name  string
	value json.RawMessage
}

func (d document) get(name string) (json.RawMessage, bool) {
	for _, e := range d {
		if e.name == name {
			return e.value, true
		}
	}
	return nil, false
}

// with returns the document with a value set, at its place or at the end.
func (d document) with(name string, value json.RawMessage) document {
	for i, e := range d {
		if e.name == name {
			d[i].value = value
			return d
		}
	}
	return append(d, entry{name, value})
}

var errNoObject = errors.New(`static vendordata must be one JSON object, such as {"cloud-init": "#cloud-config\n..."}, or a text or a list of texts`)

// parseDocument reads one JSON object. Keys that come twice are an error: what
// Nova would make of them is not what the operator sees.
func parseDocument(data []byte) (document, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errNoObject
	}
	var d document
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, positioned(errNoObject, decoder)
		}
		if _, twice := d.get(name); twice {
			return nil, positioned(fmt.Errorf("the key %.60q comes twice", name), decoder)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, positioned(fmt.Errorf("the value of %.60q is not valid JSON", name), decoder)
		}
		d = append(d, entry{name, value})
	}
	if _, err := decoder.Token(); err != nil {
		return nil, positioned(errNoObject, decoder)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, positioned(errors.New("there is more after the end of the JSON object"), decoder)
	}
	return d, nil
}

func positioned(err error, decoder *json.Decoder) error {
	return fmt.Errorf("at byte %d: %w", decoder.InputOffset(), err)
}

// encodeVendordata writes the object in lines, one for each key.
func encodeVendordata(d document) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("{")
	for i, e := range d {
		if i > 0 {
			out.WriteString(",")
		}
		out.WriteString("\n  ")
		out.Write(mustJSON(e.name))
		out.WriteString(": ")
		if err := json.Indent(&out, e.value, "  ", "  "); err != nil {
			return nil, fmt.Errorf("the value of %.60q: %w", e.name, err)
		}
	}
	out.WriteString("\n}\n")
	return out.Bytes(), nil
}

// mustJSON encodes a text or a list of them, without turning < and & into
// escapes that nobody can read. Neither can fail.
func mustJSON(value any) json.RawMessage {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(out.Bytes())
}
