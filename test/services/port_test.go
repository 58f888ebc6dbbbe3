// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import "testing"

// Ports lie beside the kernel's own, wherever those are.
func TestPortsBeside(t *testing.T) {
	for _, tt := range []struct{ kernelFirst, kernelLast, first, after int }{
		{32768, 60999, 12000, 32000}, // Linux's default
		{15000, 64000, 12000, 15000},
		{10240, 60000, 60001, 65536},
		{1024, 65535, 12000, 32000},
	} {
		if first, after := portsBeside(tt.kernelFirst, tt.kernelLast); first != tt.first || after != tt.after {
			t.Errorf("beside %d to %d: from %d to before %d, want %d and %d", tt.kernelFirst, tt.kernelLast, first, after, tt.first, tt.after)
		}
	}
}
