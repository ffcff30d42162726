"""A node of a cluster under test: Ray's processes as `ray start` makes them, which end with whoever holds the input.

python -m tests.ray.node_process JSON      # see `Cluster`; prints the head's address when it is ready
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from sfworker.ray.head import ENVIRONMENT, HEALTH_CHECKS, STORE_BYTES, watch_over_session


def main() -> None:
    asked = json.loads(sys.argv[1])
    watch_over_session(asked["directory"])
    if asked["ip"] == "127.0.0.1":
        os.environ.update(ENVIRONMENT)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ |= {"RAY_worker_niceness": "0"}  # by Ray's own, nodes starve where this machine has other work to do
    import ray
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    ray.__version__ = os.environ.get("LAB_RAY_VERSION", ray.__version__)  # which the head tells whoever joins
    is_head = asked["head"] is None
    parameters = {
        "node_ip_address": asked["ip"],
        "node_name": asked["name"],
        "min_worker_port": 0,
        "max_worker_port": 0,
        "num_cpus": asked["cpus"],
        "resources": asked["resources"],
        "object_store_memory": STORE_BYTES,
        "temp_dir": asked["directory"],
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "_system_config": HEALTH_CHECKS if is_head else None,
    }
    parameters |= {"gcs_server_port": asked["port"]} if is_head else {"gcs_address": asked["head"]}
    if not is_head:
        wait_for(asked["head"])
    node = Node(RayParams(**parameters), head=is_head, shutdown_at_exit=False, spawn_reaper=False)
    print(node.gcs_address, flush=True)
    signal.pause()


def wait_for(head: str) -> None:
    """Wait until the head listens, which Ray itself asks for too seldom."""
    host, port = head.split(":")
    while True:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
            return
        except OSError:
            time.sleep(0.02)


main()
