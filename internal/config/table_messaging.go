// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

func notificationsOptions() []option {
	at := of[Notifications]
	return []option{
		{name: "topics", initial: "muster_notifications", field: at(func(n *Notifications) any { return &n.Topics }),
			example: "muster_notifications, novajoin_notifications, tatu_notifications",
			help: "The topics that the services send to for Muster: name them in [oslo_messaging_notifications] topics of " +
				"keystone.conf, nova.conf and neutron.conf, and never one that somebody else listens to. Nova's versioned " +
				"notifications have topics of their own ([notifications] versioned_notifications_topics)."},
		{name: "priorities", initial: "info", field: at(func(n *Notifications) any { return &n.Priorities }),
			choices: []string{"audit", "debug", "info", "warn", "error", "critical", "sample"},
			help:    "The priorities that are listened to; all that concerns Muster is info."},
		{name: "exchanges", initial: "keystone, nova, neutron", field: at(func(n *Notifications) any { return &n.Exchanges }),
			help: "The services' exchanges (control_exchange in their configuration)."},
		{name: "prefetch", initial: "100", min: "1", max: "10000", field: at(func(n *Notifications) any { return &n.Prefetch }),
			help: "How many notifications of each queue a replica works on at once."},
	}
}

func rabbitOptions() []option {
	at := of[Rabbit]
	return []option{
		{name: "amqp_durable_queues", initial: "false", field: at(func(r *Rabbit) any { return &r.DurableQueues }),
			help: "A queue that Muster has to make outlives the broker. One that is there is used as it is."},
		{name: "amqp_auto_delete", initial: "false", field: at(func(r *Rabbit) any { return &r.AutoDelete }),
			help: "Such a queue is deleted when nobody listens any more."},
		{name: "rabbit_quorum_queue", initial: "false", field: at(func(r *Rabbit) any { return &r.QuorumQueue }),
			help: "Such a queue is a quorum queue, which is durable too."},
		{name: "ssl", initial: "false", field: at(func(r *Rabbit) any { return &r.SSL }),
			help: "Connect by TLS. The broker's certificate is always verified."},
		{name: "ssl_ca_file", path: true, field: at(func(r *Rabbit) any { return &r.CAFile }),
			help: "A PEM file with the authorities of the broker's certificate. Empty: the system's. Read at each connection."},
		{name: "ssl_cert_file", path: true, field: at(func(r *Rabbit) any { return &r.CertFile }),
			help: "A PEM file with Muster's certificate for the broker. Read at each connection."},
		{name: "ssl_key_file", path: true, field: at(func(r *Rabbit) any { return &r.KeyFile }),
			help: "A PEM file with the certificate's private key. Read at each connection."},
		{name: "ssl_enforce_hostname_verification", initial: "true", field: at(func(r *Rabbit) any { return &r.VerifyHostname }),
			help: "The broker's certificate must be for the host in transport_url."},
		{name: "heartbeat_timeout_threshold", initial: "60s", min: "2s", max: "10m",
			field: at(func(r *Rabbit) any { return &r.Heartbeat }),
			help:  "How long a silent broker is believed to be there."},
		{name: "rabbit_retry_interval", initial: "1s", min: "1s", max: "10m",
			field: at(func(r *Rabbit) any { return &r.RetryInterval }),
			help:  "The first pause before connecting again; it doubles with each."},
		{name: "rabbit_interval_max", initial: "30s", min: "1s", max: "1h",
			field: at(func(r *Rabbit) any { return &r.MaxInterval }),
			help:  "The longest such pause."},
	}
}
