"""Joins this process to its session: a mesh on this host or a cluster of machines. Runs in the party process."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, NoReturn

import secretflow

from sfworker.errors import ClusterInitializationError
from sfworker.session.fed_proxy import ListeningGrpcProxy, UnixSocketProxy, use_proxy
from sfworker.wire.frames import Start


class SessionBrokenError(Exception):
    """SecretFlow gave up this session from another thread; what it recorded says why."""


class ClusterInitializer:
    """One session of SecretFlow, for one execution."""

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
        # SecretFlow answers an error in any of its threads with SIGINT to itself and an exit without a word. As an
        # exception on the main thread it can be reported.
        signal.signal(signal.SIGINT, _raise_session_broken)

    def shutdown_cluster(self) -> None:
        """End the session where others depend on an orderly end; a mesh just ends with its processes."""
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
