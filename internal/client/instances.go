// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
)

// TokenRenewal says which one-time token an instance has now. The token is for
// the instance alone, and not in here.
type TokenRenewal struct {
	InstanceID string `json:"host_id"`
	ProjectID  string `json:"auth_id"`
	Hostname   string `json:"hostname"`
	CreatedAt  string `json:"created_at"` // times are UTC, as in 2006-01-02T15:04:05.000000
	ExpiresAt  string `json:"expires_at"`
}

// RenewToken gives an instance whose one-time token is spent or has expired
// another one. One that is good still stays, so that it may be repeated.
func (c *Client) RenewToken(ctx context.Context, instanceID string) (TokenRenewal, error) {
	var renewed TokenRenewal
	err := c.do(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(instanceID)+"/token", nil, nil, &renewed)
	return renewed, err
}
