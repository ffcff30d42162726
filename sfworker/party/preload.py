"""Readies the interpreter before job modules are imported, and clears state that must not survive a fork."""

from __future__ import annotations

import logging
import sys


def hide_ray() -> None:
    """Make `import ray` fail at once in this process and its forks.

    SecretFlow tries the import for each call that a PYU makes. That costs 0.4 s at the first call where Ray is
    installed, and a search of the whole import path each time where it is not. Parties here never run on Ray objects.
    """
    sys.modules["ray"] = None  # type: ignore[assignment]


def forget_jax_client() -> None:
    """Drop the client that JAX makes when an import computes something, as that of `sml` does.

    Its threads do not survive a fork, so a forked process with this client would wait for ever at its first
    computation that is large enough for threads. Without it, the process makes a client of its own in a millisecond.
    """
    import jax.extend.backend

    logging.getLogger("jax").setLevel(logging.WARNING)  # it would announce this
    jax.extend.backend.clear_backends()  # type: ignore[no-untyped-call]
