// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/notify"
)

// Memory takes messages of a cloud in this process, where transport_url is
// memory://.
func (s *Server) Memory() *notify.Memory { return s.memory }

// buildListener makes the listener if there is a broker to listen to.
func (s *Server) buildListener() error {
	if s.cfg.TransportURL == "" {
		return nil
	}
	listenerConfig := notifyConfig(s.cfg)
	listenerConfig.Memory, listenerConfig.Offer = s.memory, s.forget
	if s.convergence != nil {
		listenerConfig.Offer = s.convergence.queue.Offer
	}
	listenerConfig.Offer = s.forgetting.offering(listenerConfig.Offer)
	listenerConfig.Logger, listenerConfig.Registerer = s.logger, s.registry
	var err error
	if s.listener, err = notify.New(listenerConfig); err != nil {
		return fmt.Errorf("[DEFAULT] transport_url: %w", err)
	}
	return nil
}

func notifyConfig(cfg *config.Config) notify.Config {
	notifications, rabbit := cfg.Notifications, cfg.Rabbit
	return notify.Config{
		TransportURL: string(cfg.TransportURL), Name: "muster " + cfg.Host,
		Topics: notifications.Topics, Priorities: notifications.Priorities, Exchanges: notifications.Exchanges,
		Prefetch: notifications.Prefetch,
		Rabbit: notify.Rabbit{
			External: rabbit.LoginMethod == "EXTERNAL",
			TLS:      rabbit.SSL, CAFile: rabbit.CAFile, CertFile: rabbit.CertFile, KeyFile: rabbit.KeyFile,
			VerifyHostname: rabbit.VerifyHostname, Heartbeat: rabbit.Heartbeat,
			RetryInterval: rabbit.RetryInterval, MaxInterval: rabbit.MaxInterval,
		},
	}
}

// forget drops what the caches say of the users, projects and credentials that
// were hinted at, so that the next request asks Keystone.
func (s *Server) forget(_ context.Context, hints []converge.Hint) <-chan error {
	for _, hint := range hints {
		user, project := "", ""
		switch key := hint.Key; key.Kind {
		case converge.Credential:
			caches{sessions{s}}.ForgetCredential(key.ID)
		case converge.User:
			user = key.ID
		case converge.Project, converge.Members:
			project = key.ID
		case converge.Grant:
			user, project = key.Grant()
		}
		if user != "" {
			sessions{s}.ForgetUser(user)
		} else if project != "" {
			caches{sessions{s}}.ForgetProject(project)
		}
	}
	done := make(chan error)
	close(done)
	return done
}

// events are the operator face's view of the listener, which may not be there.
type events struct{ server *Server }

// Events implements operator.Events.
func (e events) Events(limit int) []notify.Event {
	if e.server.listener == nil {
		return nil
	}
	return e.server.listener.Events(limit)
}

// tellBroker connects to the broker once, and says of what kind the queues are.
func (s *Server) tellBroker(ctx context.Context) (notes []string, err error) {
	found, err := notify.Check(ctx, notifyConfig(s.cfg))
	for _, queue := range found {
		switch queue.Kind {
		case "":
			notes = append(notes, fmt.Sprintf("warning: queue %s is not there: no service has sent to its topic yet; "+
				"name it in [oslo_messaging_notifications] topics of Keystone, Nova and Neutron", queue.Queue))
		case "unknown":
			notes = append(notes, fmt.Sprintf("Queue %s is there; Muster's user may not learn its kind.", queue.Queue))
		default:
			notes = append(notes, fmt.Sprintf("Queue %s is there: %s.", queue.Queue, queue.Kind))
		}
	}
	return notes, err
}
