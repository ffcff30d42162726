"""What SecretFlow imports only when it is first used, imported ahead; and what must not be left of it before a fork."""

from __future__ import annotations

import importlib
import logging

# Measured on a first use in a forked process: 0.3 to 0.4 s for ray, which SecretFlow imports for each call that a PYU
# makes, even where no Ray runs; 0.01 s for fed, at the first program for an SPU.
_LAZY = ("ray", "fed")


def preload() -> None:
    """Import everything that the first calls of a job would otherwise wait for. Before job modules are imported."""
    for name in _LAZY:
        importlib.import_module(name)


def forget_jax_client() -> None:
    """Drop the client that JAX has where an import computed something (`sml` does): its threads do not survive a fork.

    A forked process that still had it would wait forever at its first computation that is large enough for threads.
    Without it, it makes a client of its own when it needs one, in a millisecond.
    """
    import jax.extend.backend

    logging.getLogger("jax").setLevel(logging.WARNING)  # it would announce this
    jax.extend.backend.clear_backends()  # type: ignore[no-untyped-call]
