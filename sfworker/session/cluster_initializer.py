"""Joins a party process to its session, a mesh over Unix sockets.

Behind the sockets of parties that are elsewhere stands this party's gateway.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

import secretflow

from sfworker.errors import ClusterInitializationError
from sfworker.session.fed_proxy import use_unix_sockets
from sfworker.wire.frames import Start


class SessionBrokenError(Exception):
    """SecretFlow gave up this session from another thread and recorded the cause."""


class ClusterInitializer:
    """Starts SecretFlow's session, which ends with the process."""

    def initialize_cluster(self, start: Start) -> None:
        """Start the session. Raises ClusterInitializationError."""
        use_unix_sockets()
        addresses = {
            party: {"address": f"unix:{start.mesh_dir}/fed-{rank}.sock"} for rank, party in enumerate(start.parties)
        }
        try:
            secretflow.init(
                cluster_config={"parties": addresses, "self_party": start.self_party},
                ray_mode=False,
                job_name=start.execution_id,
                logging_level=start.log_level.lower(),
            )
        except (OSError, RuntimeError, ConnectionError, ValueError, AssertionError) as error:
            raise ClusterInitializationError(
                f"the session could not be started ({type(error).__name__}); check sf_init_config"
            ) from error
        raise_errors_of_threads()


def raise_errors_of_threads() -> None:
    """Raise an error of SecretFlow's threads on the main thread, where it can be reported.

    SecretFlow answers it with SIGINT to itself and `os._exit`.
    """
    signal.signal(signal.SIGINT, _raise_session_broken)


def _raise_session_broken(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second would interrupt whoever reports the first
    raise SessionBrokenError
