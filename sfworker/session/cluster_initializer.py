"""Joins a party process to its session, which is a mesh on this host or a cluster of machines."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, NoReturn

import secretflow

from sfworker.errors import ClusterInitializationError
from sfworker.session.fed_proxy import ListeningGrpcProxy, UnixSocketProxy, use_proxy
from sfworker.wire.frames import Start


class SessionBrokenError(Exception):
    """SecretFlow gave up this session from another thread and recorded the cause."""


class ClusterInitializer:
    """Starts and ends SecretFlow's session of one execution."""

    def __init__(self) -> None:
        self._graceful = False

    def initialize_cluster(self, start: Start) -> None:
        """Start the session. Raises ClusterInitializationError."""
        try:
            if start.mode == "cluster":
                self._join_cluster(start)
            else:
                self._join_mesh(start)
        except (OSError, RuntimeError, ConnectionError, ValueError, AssertionError) as error:
            raise ClusterInitializationError(
                f"the session could not be started ({type(error).__name__}); check sf_init_config"
            ) from error
        # SecretFlow answers an error in any of its threads with SIGINT to itself and `os._exit`. Raised on the main
        # thread instead, the error can be reported.
        signal.signal(signal.SIGINT, _raise_session_broken)

    def shutdown_cluster(self) -> None:
        """End the session of a cluster, whose parties depend on an orderly end. A mesh just ends with its processes."""
        if self._graceful:
            secretflow.shutdown()

    def _join_mesh(self, start: Start) -> None:
        use_proxy(UnixSocketProxy)
        addresses = {
            party: {"address": f"unix:{start.mesh_dir}/fed-{rank}.sock"} for rank, party in enumerate(start.parties)
        }
        self._init(start, {"parties": addresses, "self_party": start.self_party})

    def _join_cluster(self, start: Start) -> None:
        use_proxy(ListeningGrpcProxy)
        self._graceful = True
        config = start.cluster_config or {}
        parties = {
            party: {"address": one["address"], "listen_addr": one.get("listen_addr") or one["address"]}
            for party, one in config["parties"].items()
        }
        self._init(start, {"parties": parties, "self_party": start.self_party})

    def _init(self, start: Start, cluster_config: dict[str, Any]) -> None:
        secretflow.init(
            cluster_config=cluster_config,
            ray_mode=False,
            job_name=start.execution_id,
            logging_level=start.log_level.lower(),
        )


def _raise_session_broken(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second would interrupt whoever reports the first
    raise SessionBrokenError
