// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"strings"
)

// decompress undoes what a sender with kombu_compression did. kombu's "gzip" is
// zlib's format (https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.compression.html);
// real gzip is read too. The name of any other encoding of characters, such as
// utf-8, says that nothing is to be done. The error is ErrUnreadable.
func decompress(body []byte, compression string) ([]byte, error) {
	var reader io.Reader
	var err error
	switch name := strings.ToLower(compression); name {
	case "application/x-gzip", "application/gzip", "gzip", "zlib", "deflate":
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
			reader, err = gzip.NewReader(bytes.NewReader(body))
		} else {
			reader, err = zlib.NewReader(bytes.NewReader(body))
		}
	case "application/x-bz2", "application/x-bzip2", "bzip2", "bzip", "bz2":
		reader = bzip2.NewReader(bytes.NewReader(body))
	default:
		if strings.HasPrefix(name, "application/") {
			return nil, fmt.Errorf("%w: it is compressed in a way that Muster does not know; let the services use gzip or bz2, "+
				"or no kombu_compression", ErrUnreadable)
		}
		return body, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its compression is damaged", ErrUnreadable)
	}
	plain, err := io.ReadAll(io.LimitReader(reader, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%w: its compression is damaged", ErrUnreadable)
	}
	if len(plain) > maxBody {
		return nil, fmt.Errorf("%w: longer than %d MiB", ErrUnreadable, maxBody>>20)
	}
	return plain, nil
}
