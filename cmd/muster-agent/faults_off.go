// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !faults

package main

import "time"

// crashPoint is called before each step that changes a file. Programs built
// with the tag faults, for tests of a machine, can end there.
func crashPoint(string) {}

// now tells the time.
func now() time.Time { return time.Now() }
