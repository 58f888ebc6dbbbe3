// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	// maxKept bounds what is kept of a message that cannot be read.
	maxKept = 4096
	// maxMasked bounds how much of such a message is looked at.
	maxMasked = 64 << 10
	// maxShown is the longest value that is shown.
	maxShown = 100
)

// shownValues are the names of fields whose values say what a message is, and
// are no secrets. Of all others only the names are kept: a payload may hold
// tokens, passwords, or an instance's user-data, under any name.
var shownValues = []string{
	"oslo.version", "message_id", "publisher_id", "event_type", "priority", "timestamp", "nova_object.name", "nova_object.namespace",
	"nova_object.version", "instance_id", "uuid", "tenant_id", "project_id", "user_id", "state", "old_state", "new_task_state", "typeURI", "id",
}

// token is a piece of JSON, or of what was meant to be.
var token = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?|[{}\[\],:]|\s+|[^\s"{}\[\],:]+`)

// masked returns what may be kept of a message that cannot be read: its form
// and the names of its fields, with those values alone that are certainly no
// secrets. It is at most maxKept bytes long.
func masked(body []byte) string {
	text := strings.ToValidUTF8(string(body[:min(len(body), maxMasked)]), "\uFFFD")
	if trimmed := strings.TrimLeft(text, " \t\r\n"); trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
		return fmt.Sprintf("no JSON; it begins with %q", body[:min(len(body), 8)])
	}
	kept := maskJSON(text, 0)
	if len(kept) > maxKept || len(body) > maxMasked {
		kept = strings.ToValidUTF8(kept[:min(len(kept), maxKept-len(" ..."))], "") + " ..."
	}
	return kept
}

// maskJSON goes through a text piece by piece, and so needs no valid JSON. The
// message inside oslo's envelope is JSON in a string.
func maskJSON(text string, depth int) string {
	var out strings.Builder
	name := ""    // of the field whose value comes
	value := true // whether the next string is a value
	pieces := token.FindAllString(text, -1)
	for i, piece := range pieces {
		switch {
		case strings.TrimSpace(piece) == "" || strings.ContainsAny(piece[:1], "{}[]"):
			out.WriteString(piece)
		case piece == ":" || piece == ",":
			value = piece == ":"
			out.WriteString(piece)
		case piece[0] == '"' && isName(pieces[i+1:]):
			name, value = strings.Trim(piece, `"`), false
			out.WriteString(cutTo(piece, maxShown))
		case name == "oslo.message" && depth == 0:
			out.WriteString(maskInner(piece, depth))
		case slices.Contains(shownValues, name) && value:
			out.WriteString(cutTo(piece, maxShown))
		case piece == "null" || piece == "true" || piece == "false":
			out.WriteString(piece)
		default:
			out.WriteString(`"***"`)
		}
		if out.Len() > maxKept {
			break
		}
	}
	return out.String()
}

// isName tells whether a colon follows.
func isName(rest []string) bool {
	for _, piece := range rest {
		if strings.TrimSpace(piece) != "" {
			return piece == ":"
		}
	}
	return false
}

func maskInner(piece string, depth int) string {
	var inner string
	if json.Unmarshal([]byte(piece), &inner) != nil {
		inner = strings.ReplaceAll(strings.Trim(piece, `"`), `\"`, `"`)
	}
	return maskJSON(inner, depth+1)
}

func cutTo(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return strings.ToValidUTF8(text[:length], "") + `..."`
}
