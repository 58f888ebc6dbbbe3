// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Addresses are where an instance reaches the metadata service, in order: the
// link-local address that every OpenStack has, and the one of networks with
// IPv6 only (Neutron, "IPv6 metadata"), on each link that there is.
var Addresses = []string{"http://169.254.169.254", "http://[fe80::a9fe:a9fe]"}

// instanceData is where cloud-init keeps what it read, for root only.
const instanceData = "/run/cloud-init/instance-data-sensitive.json"

// Limits of one look.
const (
	requestTimeout = 20 * time.Second
	mountTimeout   = 30 * time.Second
)

// Runner runs a program of the machine.
type Runner interface {
	Run(ctx context.Context, stdin []byte, name string, args ...string) (stdout []byte, err error)
}

// Config is what a Finder needs.
type Config struct {
	// Root is the machine's tree, "/" if empty.
	Root string
	// Runner runs blkid and mount; nil: the config drive is read only where
	// it is mounted already.
	Runner Runner
	// Addresses are the metadata services to ask; nil: Addresses.
	Addresses []string
	// Log gets what could not be read; the default drops it.
	Log *slog.Logger
}

// Finder finds an instance's metadata.
type Finder struct {
	cfg  Config
	http *http.Client
}

// New returns a Finder.
func New(cfg Config) *Finder {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Addresses == nil {
		cfg.Addresses = Addresses
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	// The service is on the link itself: no proxy, and nothing kept open for
	// the next look, which may be days away.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	return &Finder{cfg: cfg, http: &http.Client{Transport: transport, Timeout: requestTimeout}}
}

// Find looks once in all places, and returns the first that has something from
// Muster. A config drive stays as it was made, and may be from a time when
// Muster was away, so that the metadata service is asked even if there is one.
func (f *Finder) Find(ctx context.Context) (Instance, error) {
	return f.first(ctx, f.fromDrive, f.fromService, f.fromCloudInit)
}

// FindCurrent is Find, but asks the metadata service first: what it says, such
// as the password to join FreeIPA with, is from now.
func (f *Finder) FindCurrent(ctx context.Context) (Instance, error) {
	return f.first(ctx, f.fromService, f.fromDrive, f.fromCloudInit)
}

// first returns what the first of the places has.
func (f *Finder) first(ctx context.Context, places ...func(context.Context) (Instance, error)) (Instance, error) {
	var problems []error
	for _, place := range places {
		found, err := place(ctx)
		if err == nil {
			return found, nil
		}
		problems = append(problems, err)
	}
	// What a place has, but wrongly, says more than that others have nothing.
	for _, err := range problems {
		if !errors.Is(err, ErrNone) {
			return Instance{}, err
		}
	}
	reasons := make([]string, len(problems))
	for i, err := range problems {
		reasons[i] = strings.TrimPrefix(err.Error(), ErrNone.Error()+": ")
	}
	return Instance{}, fmt.Errorf("%w: %s", ErrNone, strings.Join(reasons, "; "))
}

// fromService asks the metadata service.
func (f *Finder) fromService(ctx context.Context) (Instance, error) {
	var last error
	for _, address := range f.cfg.Addresses {
		for _, base := range onLinks(address) {
			metaData, err := f.get(ctx, base+"/openstack/latest/meta_data.json")
			if err != nil {
				last = fmt.Errorf("%w: %w", ErrNone, err)
				continue
			}
			vendorData, err := f.get(ctx, base+"/openstack/latest/vendor_data2.json")
			if err != nil {
				return Instance{}, err
			}
			return combine(metaData, vendorData, "metadata service "+base)
		}
	}
	if last == nil {
		last = fmt.Errorf("%w: no link has an IPv6 address", ErrNone)
	}
	return Instance{}, last
}

// onLinks returns the address itself, or if it is a link-local one of IPv6, one
// for each link.
func onLinks(address string) []string {
	host, isIPv6 := strings.CutPrefix(address, "http://[fe80:")
	if !isIPv6 {
		return []string{address}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var all []string
	for _, link := range links {
		if link.Flags&net.FlagUp != 0 && link.Flags&net.FlagLoopback == 0 {
			// RFC 6874: the zone comes behind an escaped percent sign.
			all = append(all, "http://[fe80:"+strings.Replace(host, "]", "%25"+link.Name+"]", 1))
		}
	}
	return all
}

// get fetches one document.
func (f *Finder) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := f.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return readBounded(answer.Body, url)
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("%s has more than %d bytes", name, MaxSize)
	}
	return data, err
}

// fromCloudInit reads what cloud-init kept for root. It keeps the vendordata of
// some data sources only, and 25.1 nothing of any target but its own.
func (f *Finder) fromCloudInit(context.Context) (Instance, error) {
	data, err := f.readFile(instanceData)
	if errors.Is(err, fs.ErrNotExist) {
		return Instance{}, fmt.Errorf("%w: cloud-init has kept none", ErrNone)
	} else if err != nil {
		return Instance{}, err
	}
	found, err := search(data, instanceData)
	if errors.Is(err, ErrNoMuster) {
		return Instance{}, fmt.Errorf("%w: cloud-init has kept nothing from Muster", ErrNone)
	}
	return found, err
}

// readFile reads a file of the machine's tree.
func (f *Finder) readFile(path string) ([]byte, error) {
	file, err := os.Open(filepath.Join(f.cfg.Root, path))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readBounded(file, path)
}
