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
		{name: "rabbit_login_method", initial: "AMQPLAIN", choices: []string{"AMQPLAIN", "PLAIN", "EXTERNAL"},
			field: at(func(r *Rabbit) any { return &r.LoginMethod }),
			help: "How Muster logs in to the broker. AMQPLAIN and PLAIN: by user and password, in whichever way the broker takes; " +
				"EXTERNAL: by the certificate in ssl_cert_file."},
		{name: "ssl", initial: "false", field: at(func(r *Rabbit) any { return &r.SSL }),
			deprecated: []oldName{{"oslo_messaging_rabbit", "rabbit_use_ssl"}},
			help:       "Connect by TLS. The broker's certificate is always verified."},
		{name: "ssl_ca_file", path: true, deprecated: []oldName{{"oslo_messaging_rabbit", "kombu_ssl_ca_certs"}}, field: at(func(r *Rabbit) any { return &r.CAFile }),
			help: "A PEM file with the authorities of the broker's certificate. Empty: the system's. Read at each connection."},
		{name: "ssl_cert_file", path: true, deprecated: []oldName{{"oslo_messaging_rabbit", "kombu_ssl_certfile"}}, field: at(func(r *Rabbit) any { return &r.CertFile }),
			help: "A PEM file with Muster's certificate for the broker. Read at each connection."},
		{name: "ssl_key_file", path: true, deprecated: []oldName{{"oslo_messaging_rabbit", "kombu_ssl_keyfile"}}, field: at(func(r *Rabbit) any { return &r.KeyFile }),
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

// idleRabbitOptions are those of oslo.messaging
// (https://docs.openstack.org/oslo.messaging/latest/configuration/opts.html)
// that make no difference to who only receives notifications, or that Muster
// has its own way for.
func idleRabbitOptions() map[string]string {
	const (
		sender = "it is for those who send; what they send is read either way"
		rpc    = "it is for remote procedure calls, and Muster makes none"
		own    = "Muster does so by itself"
		queue  = "Muster makes no queue: each service does before it sends, and Muster takes it as it is"
	)
	return map[string]string{
		"kombu_compression":                    sender,
		"amqp_durable_queues":                  queue,
		"amqp_auto_delete":                     queue,
		"rabbit_quorum_queue":                  queue,
		"rabbit_quorum_delivery_limit":         queue,
		"rabbit_quorum_max_memory_length":      queue,
		"rabbit_quroum_max_memory_length":      queue,
		"rabbit_quorum_max_memory_bytes":       queue,
		"rabbit_quroum_max_memory_bytes":       queue,
		"direct_mandatory_flag":                rpc,
		"kombu_missing_consumer_retry_timeout": rpc,
		"rabbit_stream_fanout":                 rpc,
		"rabbit_transient_quorum_queue":        rpc,
		"rabbit_transient_queues_ttl":          rpc,
		"use_queue_manager":                    rpc,
		"hostname":                             rpc,
		"processname":                          rpc,
		"rpc_conn_pool_size":                   rpc,
		"conn_pool_min_size":                   rpc,
		"conn_pool_ttl":                        rpc,
		"heartbeat_rate":                       own,
		"heartbeat_in_pthread":                 own,
		"kombu_reconnect_delay":                own + ": see rabbit_retry_interval",
		"kombu_failover_strategy":              own + ": each replica begins with another host, and tries them in turn",
		"rabbit_retry_backoff":                 own + ": each pause is twice the last, up to rabbit_interval_max",
		"enable_cancel_on_failover":            own + ": it subscribes again when the queue moves",
		"rabbit_qos_prefetch_count":            "set [notifications] prefetch",
		"rabbit_ha_queues":                     "RabbitMQ has not known it since 3.0: use a policy, or rabbit_quorum_queue",
		"ssl_version":                          "TLS 1.2 is the least, and the best that both sides speak is used",
		"ssl_enforce_fips_mode":                "run the whole program in FIPS mode instead: GODEBUG=fips140=only",
	}
}
