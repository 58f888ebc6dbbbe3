// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"errors"
	"strings"
	"testing"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/messages"
)

// TestRefusal: of what a KDC may answer (RFC 4120, 7.5.9), only what is about the principal and its keys counts against these. All
// else may be over by itself, and must not stop the log-ins to other servers.
func TestRefusal(t *testing.T) {
	for _, test := range []struct {
		code        int32
		credentials bool
		says        string
	}{
		{errorcode.KDC_ERR_NAME_EXP, true, ""},
		{errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN, true, ""},
		{errorcode.KDC_ERR_POLICY, true, ""},
		{errorcode.KDC_ERR_ETYPE_NOSUPP, true, ""},
		{errorcode.KDC_ERR_CLIENT_REVOKED, true, ""},
		{errorcode.KDC_ERR_KEY_EXPIRED, true, ""},
		{errorcode.KDC_ERR_PREAUTH_FAILED, true, ""},
		{errorcode.KDC_ERR_WRONG_REALM, true, ""},
		{errorcode.KDC_ERR_SVC_UNAVAILABLE, false, "in trouble"},
		{errorcode.KRB_ERR_GENERIC, false, "in trouble"},
		{errorcode.KRB_AP_ERR_SKEW, false, "clocks"},
	} {
		// As the library passes it on.
		err := krberror.Errorf(messages.KRBError{ErrorCode: test.code}, krberror.KDCError, "AS Exchange Error: kerberos error response from KDC")
		got := refusal(err)
		if errors.Is(got, errCredentials) != test.credentials || !strings.Contains(got.Error(), test.says) {
			t.Errorf("%s: %v", errorcode.Lookup(test.code), got)
		}
	}
	if err := refusal(nil); err != nil {
		t.Errorf("no error: %v", err)
	}
	if err := refusal(krberror.New(krberror.NetworkingError, "nobody there")); errors.Is(err, errCredentials) {
		t.Errorf("without an answer: %v", err)
	}
}
