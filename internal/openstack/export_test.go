// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

// Token is the one that is logged in with.
func (i *Images) Token() string { return i.glance.session.client.Token() }

// LoginPause is for how long a log-in that failed is not repeated.
const LoginPause = loginPause
