// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/problem"
)

const (
	// maxProgram bounds what is read and served; the agent has less than 10 MB.
	maxProgram = 64 << 20
	// downloadTime is what an instance has to fetch the program.
	downloadTime = 10 * time.Minute
)

// Programs are the agent's programs in a folder. Their checksums are known
// from the start, and computed again when a file was replaced.
type Programs struct {
	directory string
	logger    *slog.Logger

	mu    sync.Mutex
	known map[string]program // by name
}

// program is a file that was read.
type program struct {
	info   fs.FileInfo
	sha256 string
}

// OpenPrograms reads the programs that are there. A folder or file that is
// missing is not offered, and is looked for again at each request.
func OpenPrograms(directory string, logger *slog.Logger) *Programs {
	p := &Programs{directory: directory, logger: logger, known: make(map[string]program)}
	for arch, sum := range p.Checksums() {
		logger.Info("Offering the agent to instances", "architecture", arch, "sha256", sum)
	}
	return p
}

// Checksums returns the SHA-256 of each program that is there, in hexadecimal,
// by architecture.
func (p *Programs) Checksums() map[string]string {
	sums := make(map[string]string)
	for arch, name := range agentapi.Programs {
		file, found, err := p.open(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				p.logger.Warn("A program of the agent cannot be offered", "name", name, "error", err)
			}
			continue
		}
		_ = file.Close() // it was only read
		sums[arch] = found.sha256
	}
	return sums
}

// open opens a program. What is read from the file has the checksum, also if
// another file takes its name meanwhile.
func (p *Programs) open(name string) (*os.File, program, error) {
	file, err := os.Open(filepath.Join(p.directory, name))
	if err != nil {
		return nil, program{}, err
	}
	found, err := p.check(name, file)
	if err != nil {
		return nil, program{}, errors.Join(err, file.Close())
	}
	return file, found, nil
}

func (p *Programs) check(name string, file *os.File) (program, error) {
	info, err := file.Stat()
	if err != nil {
		return program{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxProgram {
		return program{}, fmt.Errorf("%s is no file of at most %d bytes", name, maxProgram)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.known[name]; ok && same(known.info, info) {
		return known, nil
	}
	digest := sha256.New()
	if _, err := io.Copy(digest, io.LimitReader(file, maxProgram)); err != nil {
		return program{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return program{}, err
	}
	found := program{info: info, sha256: hex.EncodeToString(digest.Sum(nil))}
	p.known[name] = found
	return found, nil
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// showProgram serves a program. Vendordata names its checksum behind the path,
// so that caches never mix versions, and that a replica which has another
// version says so.
func (f *Face) showProgram(r *api.Request) (api.Response, error) {
	name := r.PathValue("name")
	if f.cfg.Programs == nil || !slices.Contains(slices.Collect(maps.Values(agentapi.Programs)), name) {
		return api.Response{}, problem.New(problem.NotFound, "there is no such program")
	}
	file, found, err := f.cfg.Programs.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Response{}, problem.New(problem.NotFound, "this program is not offered here")
	}
	if err != nil {
		return api.Response{}, err
	}
	wanted, caching := r.URL.Query().Get("sha256"), "public, max-age=300"
	if wanted == found.sha256 {
		caching = "public, max-age=86400, immutable"
	} else if wanted != "" {
		return api.Response{}, errors.Join(problem.New(problem.NotFound, "another version of this program is offered here; ask for the metadata again"), file.Close())
	}
	header := http.Header{"Etag": {`"` + found.sha256 + `"`}, "Cache-Control": {caching}, "Content-Type": {"application/octet-stream"}}
	r.Transferring(downloadTime)
	return api.Response{Header: header, Serve: func(w http.ResponseWriter, request *http.Request) {
		defer file.Close()
		http.ServeContent(w, request, "", found.info.ModTime(), file)
	}}, nil
}
