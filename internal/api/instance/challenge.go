// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/problem"
)

// A challenge is random bytes, the time in milliseconds, and a code of both
// that only Muster makes. Nothing is remembered of it, so that any replica can
// check it. It may be answered several times while it is good: what is asked
// with it is harmless when repeated.
const (
	challengeRandom  = 16
	challengeMessage = challengeRandom + 8
	challengeSize    = challengeMessage + custody.MACSize
	// challengePurpose separates these codes from others under the same key.
	challengePurpose = "agent challenge"
	// replicaSkew is how far the clocks of replicas may be apart.
	replicaSkew = 10 * time.Second
)

func (f *Face) createChallenge(*api.Request) (api.Response, error) {
	return api.Response{Body: agentapi.Challenge{
		Challenge: f.newChallenge(), ExpiresIn: int(agentapi.ChallengeLifetime / time.Second),
	}}, nil
}

func (f *Face) newChallenge() string {
	message := make([]byte, challengeRandom, challengeSize)
	rand.Read(message)
	message = binary.BigEndian.AppendUint64(message, uint64(f.cfg.Now().UnixMilli()))
	return base64.RawURLEncoding.EncodeToString(append(message, f.cfg.Authenticator.MAC(message, challengePurpose)...))
}

// checkChallenge refuses what is not a challenge of Muster's that is still good.
func (f *Face) checkChallenge(text string) error {
	if text == "" {
		return problem.InField("challenge", "is missing; ask for one at %s", agentapi.PathChallenges)
	}
	// The length is compared first, so that nothing long is decoded.
	if len(text) != base64.RawURLEncoding.EncodedLen(challengeSize) {
		return problem.New(problem.Unauthorized, "the challenge is not Muster's; ask for one at %s", agentapi.PathChallenges)
	}
	challenge, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || !f.cfg.Authenticator.CheckMAC(challenge[:challengeMessage], challenge[challengeMessage:], challengePurpose) {
		return problem.New(problem.Unauthorized, "the challenge is not Muster's; ask for one at %s", agentapi.PathChallenges)
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(challenge[challengeRandom:challengeMessage])))
	age := f.cfg.Now().Sub(made)
	if age > agentapi.ChallengeLifetime || age < -replicaSkew {
		return problem.New(problem.Unauthorized, "the challenge has expired; ask for another one at %s", agentapi.PathChallenges)
	}
	return nil
}
