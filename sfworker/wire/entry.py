"""Builds the command by which one of our processes starts another, with the same interpreter and module path.

`python -m` and `python -c` would put the working directory in front of the path. It holds the parties' files, so an
output named `numpy.py` would be imported.
"""

from __future__ import annotations

import os
import sys

_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split({separator!r}); from {module} import main; main()"


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `main` of a module."""
    boot = _BOOT.format(separator=os.pathsep, module=module)
    return [sys.executable, "-c", boot, os.pathsep.join(sys.path), *arguments]
