"""What SecretFlow imports only when it is first used, imported ahead. Runs before job modules are imported.

Imports only: no computation and no thread, so that forking afterwards stays safe.
"""

from __future__ import annotations

import importlib

# Measured on a first use in a forked process: 0.3 to 0.4 s for ray, which SecretFlow imports for each call that a PYU
# makes, even where no Ray runs; 0.01 s for fed, at the first program for an SPU.
_LAZY = ("ray", "fed")


def preload() -> None:
    """Import everything that the first calls of a job would otherwise wait for."""
    for name in _LAZY:
        importlib.import_module(name)
