// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import (
	"context"
	"encoding/json"
)

// Service is a Nova.
type Service struct{}

// Server is what Boot needs to know of an instance.
type Server struct {
	// Name becomes the host name too, in Nova's way.
	Name string
	// ProjectID and UserID: who owns it (32 hex digits).
	ProjectID, UserID string
	// ImageID is empty for an instance booted from a volume.
	ImageID  string
	Metadata map[string]string
	// UserData is base64, as in Nova's API.
	UserData string
}

// SetVendordataTargets replaces the targets, each NAME@URL.
func (s *Service) SetVendordataTargets(targets ...string) error { return nil }

// Boot makes an active instance and makes the vendordata calls of a boot with a
// config drive (five for each target). It returns the instance's ID, with dashes.
func (s *Service) Boot(ctx context.Context, server Server) (string, error) { return "", nil }

// Vendordata is what the instance reads as vendor_data2.json: one call to each
// target, afresh. Keys are the targets' names.
func (s *Service) Vendordata(ctx context.Context, id string) (map[string]json.RawMessage, error) {
	return nil, nil
}

// Delete removes the instance.
func (s *Service) Delete(id string) error { return nil }
