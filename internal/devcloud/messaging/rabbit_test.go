// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package messaging_test

import (
	"context"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/notify"
	"github.com/muster-cloud/muster/test/services"
)

// TestCloudOverRabbitMQ: what happens in a cloud reaches a listener by way of a
// real broker, also after that was away.
func TestCloudOverRabbitMQ(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs RabbitMQ")
	}
	broker, err := services.StartRabbitMQ(t.Context())
	services.Need(t, err)
	t.Cleanup(func() {
		if err := broker.Stop(); err != nil {
			t.Error(err)
		}
	})
	address := broker.URL(broker.VirtualHost(t))
	publisher, err := messaging.NewRabbit(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	cloud := devcloudtest.Start(t, devcloud.Config{})
	cloud.Notifier.To(publisher)

	hints := make(chan converge.Hint, 100)
	listener, err := notify.New(notify.Config{TransportURL: address, Topics: []string{"muster_notifications"},
		Rabbit: notify.Rabbit{RetryInterval: 10 * time.Millisecond, MaxInterval: 100 * time.Millisecond},
		Offer: func(_ context.Context, all []converge.Hint) <-chan error {
			for _, h := range all {
				hints <- h
			}
			done := make(chan error)
			close(done)
			return done
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- listener.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	for range 2 {
		project, err := cloud.Identity.CreateProject(messaging.NewID())
		if err != nil {
			t.Fatal(err)
		}
		select {
		case h := <-hints:
			if h.Key != (converge.Key{Kind: converge.Project, ID: project}) {
				t.Errorf("%+v", h)
			}
		case <-time.After(3 * time.Minute):
			t.Fatal("nothing came")
		}
		if err := broker.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := broker.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
