# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
"""Tell Neutron every half minute that an Open vSwitch agent runs on its host.

Without one Neutron binds no port there, and Nova builds no instance. Nothing is
forwarded: nobody in these tests sends a packet to an instance's address.
"""

import importlib.util

if importlib.util.find_spec("neutron.cmd.eventlet"):
    import eventlet

    eventlet.monkey_patch()
else:  # since 2026.1 Neutron has threads
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

import sys
import time

from neutron.agent import rpc
from neutron.common import config
from neutron.conf.agent import common as agent_options
from neutron_lib import context
from neutron_lib.agent import topics
from oslo_config import cfg

config.register_common_config_options()
agent_options.register_agent_state_opts_helper(cfg.CONF)
config.init(sys.argv[1:])
reports = rpc.PluginReportStateAPI(topics.REPORTS)
agent = {
    "agent_type": "Open vSwitch agent",
    "binary": "neutron-openvswitch-agent",
    "host": cfg.CONF.host,
    "topic": "N/A",
    "configurations": {
        "bridge_mappings": {"inside": "br-inside", "outside": "br-outside"},
        "datapath_type": "system",
        "ovs_hybrid_plug": False,
        "tunnel_types": [],
    },
    "start_flag": True,
}
while True:
    try:
        reports.report_state(context.get_admin_context_without_session(), agent, use_call=True)
        agent.pop("start_flag", None)
        time.sleep(30)
    except Exception as error:
        print("not reported:", error, file=sys.stderr, flush=True)
        time.sleep(1)
