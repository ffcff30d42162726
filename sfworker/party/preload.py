"""Readies the interpreter before job modules are imported, and clears state that must not survive a fork."""

from __future__ import annotations

import logging
import sys


def hide_ray() -> None:
    """Make `import ray` fail at once in this process and its forks.

    SecretFlow tries it for each call that a PYU makes: where Ray is installed that costs 0.4 s at the first call, and
    where it is not, a search of the whole import path each time. Parties here never run on Ray objects.
    """
    sys.modules["ray"] = None  # type: ignore[assignment]


def forget_jax_client() -> None:
    """Drop the client that JAX has where an import computed something (`sml` does): its threads do not survive a fork.

    A forked process that still had it would wait forever at its first computation that is large enough for threads.
    Without it, it makes a client of its own when it needs one, in a millisecond.
    """
    import jax.extend.backend

    logging.getLogger("jax").setLevel(logging.WARNING)  # it would announce this
    jax.extend.backend.clear_backends()  # type: ignore[no-untyped-call]
