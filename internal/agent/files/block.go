// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"strings"
)

// The lines around what Muster puts into a file that is not its own.
const (
	blockBegin = "# BEGIN muster-agent: made by muster-agent, changes here are lost"
	blockEnd   = "# END muster-agent"
)

// Block returns the lines between Muster's marks.
func Block(lines ...string) []byte {
	return []byte(blockBegin + "\n" + strings.Join(lines, "\n") + "\n" + blockEnd + "\n")
}

// Strip returns the content without Muster's blocks. A block whose end is
// missing is not taken for one: everything after it would be lost.
func Strip(content []byte) []byte {
	for {
		begin := lineIndex(content, blockBegin)
		if begin < 0 {
			return content
		}
		end := lineIndex(content[begin:], blockEnd)
		if end < 0 {
			return content
		}
		rest := content[begin+end+len(blockEnd):]
		rest = bytes.TrimPrefix(rest, []byte("\n"))
		content = append(bytes.Clone(content[:begin]), rest...)
	}
}

// lineIndex finds a line that is exactly the mark.
func lineIndex(content []byte, mark string) int {
	for offset := 0; ; {
		found := bytes.Index(content[offset:], []byte(mark))
		if found < 0 {
			return -1
		}
		found += offset
		after := found + len(mark)
		if (found == 0 || content[found-1] == '\n') && (after == len(content) || content[after] == '\n') {
			return found
		}
		offset = after
	}
}
