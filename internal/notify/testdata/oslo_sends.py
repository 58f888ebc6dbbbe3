# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Sends what Keystone sends when a user is deleted, by oslo.messaging.

usage: oslo_sends.py TRANSPORT_URL OPTION[=VALUE],... USER_ID
"""
import sys

import oslo_messaging
from oslo_config import cfg

url, option, user = sys.argv[1:]
conf = cfg.ConfigOpts()
conf([])
oslo_messaging.set_transport_defaults("keystone")
transport = oslo_messaging.get_notification_transport(conf, url=url)
for one in filter(None, option.split(",")):
    name, _, value = one.partition("=")
    conf.set_override(name, (int(value) if value.isdigit() else value) or True, group="oslo_messaging_rabbit")
notifier = oslo_messaging.Notifier(transport, "identity.test", driver="messagingv2", topics=["notifications", "muster_notifications"],
                                   retry=2)
notifier.info({}, "identity.user.deleted", {"resource_info": user})
