// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"time"
)

// Server is an instance to boot.
type Server struct {
	Name, Image, Flavor string
	Network             string // empty: it gets no port
	Metadata            map[string]string
}

// Boot asks Nova for an instance and returns its ID, with dashes, before it is
// built.
func (s *Session) Boot(ctx context.Context, wanted Server) (string, error) {
	var made struct{ Server struct{ ID string } }
	fields := object{"name": wanted.Name, "imageRef": wanted.Image, "flavorRef": wanted.Flavor}
	if wanted.Metadata != nil {
		fields["metadata"] = wanted.Metadata
	}
	fields["networks"] = "none"
	if wanted.Network != "" {
		fields["networks"] = []object{{"uuid": wanted.Network}}
	}
	err := s.Call(ctx, "compute", http.MethodPost, "/servers", object{"server": fields}, &made)
	return made.Server.ID, err
}

// AwaitActive returns when Nova has built the instance.
func (s *Session) AwaitActive(ctx context.Context, id string, limit time.Duration) error {
	err := Await(ctx, limit, func(ctx context.Context) error {
		// One that is rebuilt is in the list too.
		listed, err := s.listed(ctx, id, "?status=ACTIVE")
		if err != nil || !listed {
			return cmp.Or(err, errors.New("it is not active"))
		}
		return s.isActive(ctx, id)
	})
	if err != nil {
		err = errors.Join(err, s.isActive(ctx, id)) // which tells why
	}
	return err
}

func (s *Session) isActive(ctx context.Context, id string) error {
	var found struct {
		Server struct {
			Status string
			Fault  struct{ Message string }
		}
	}
	if err := s.Call(ctx, "compute", http.MethodGet, "/servers/"+id, nil, &found); err != nil {
		return err
	}
	if found.Server.Status != "ACTIVE" {
		return fmt.Errorf("the instance %s is %s: %s", id, found.Server.Status, found.Server.Fault.Message)
	}
	return nil
}

// listed tells whether an instance is in a list of the project's. Nova makes the
// list from its own database. Where it tells more of an instance it asks Neutron
// for security groups, twice, and with many who wait Neutron does little else.
func (s *Session) listed(ctx context.Context, id, query string) (bool, error) {
	var found struct{ Servers []struct{ ID string } }
	err := s.Call(ctx, "compute", http.MethodGet, "/servers"+query, nil, &found)
	return slices.ContainsFunc(found.Servers, func(one struct{ ID string }) bool { return one.ID == id }), err
}

// DeleteServer asks Nova to delete an instance.
func (s *Session) DeleteServer(ctx context.Context, id string) error {
	return s.Call(ctx, "compute", http.MethodDelete, "/servers/"+id, nil, nil)
}

// Rebuild asks Nova to build an instance anew from an image.
func (s *Session) Rebuild(ctx context.Context, id, image string) error {
	return s.Call(ctx, "compute", http.MethodPost, "/servers/"+id+"/action", object{"rebuild": object{"imageRef": image}}, nil)
}

// AwaitNoServer returns when Nova knows the instance no more.
func (s *Session) AwaitNoServer(ctx context.Context, id string, limit time.Duration) error {
	return Await(ctx, limit, func(ctx context.Context) error {
		listed, err := s.listed(ctx, id, "")
		if err != nil || listed {
			return cmp.Or(err, fmt.Errorf("the instance %s is still there", id))
		}
		err = s.Call(ctx, "compute", http.MethodGet, "/servers/"+id, nil, nil)
		if Refused(err, http.StatusNotFound) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("the instance %s is still there", id)
		}
		return err
	})
}

// introduce adds to a request for metadata what Neutron's metadata proxy adds:
// which instance asks, and a signature of its ID by the secret that Neutron
// shares with Nova (metadata_proxy_shared_secret).
func introduce(header http.Header, secret, instance, project string) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(instance))
	for name, value := range map[string]string{"X-Instance-ID": instance, "X-Tenant-ID": project, "X-Forwarded-For": "192.0.2.10",
		"X-Instance-ID-Signature": hex.EncodeToString(mac.Sum(nil))} {
		header.Set(name, value)
	}
}

// MetadataProxy serves Nova's metadata service to one instance, which finds it
// at 169.254.169.254 where Neutron has networks that forward something.
func MetadataProxy(metadataURL, secret, instance, project string) (http.Handler, error) {
	service, err := url.Parse(metadataURL)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(service)
		introduce(r.Out.Header, secret, instance, project)
	}}, nil
}

// Vendordata is what an instance reads as vendor_data2.json: the answers of the
// targets, by their names. It comes as through Neutron's metadata proxy.
func Vendordata(ctx context.Context, metadataURL, secret, instance, project string) (map[string]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, metadataURL+"/openstack/latest/vendor_data2.json", nil)
	if err != nil {
		return nil, err
	}
	introduce(request.Header, secret, instance, project)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &Refusal{response.StatusCode, fmt.Sprintf("vendor_data2.json: %s: %.500s", response.Status, text)}
	}
	var answers map[string]json.RawMessage
	if err := json.Unmarshal(text, &answers); err != nil {
		return nil, fmt.Errorf("vendor_data2.json: %w in %.200q", err, text)
	}
	return answers, nil
}

// Upload gives an image its content.
func (s *Session) Upload(ctx context.Context, image string, content []byte) error {
	_, err := s.send(ctx, http.MethodPut, s.catalog["image"]+"/v2/images/"+image+"/file", "application/octet-stream", content, nil)
	return err
}
