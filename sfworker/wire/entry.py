"""How a process of ours is started by another: with the same interpreter and the same module path.

`python -m` and `python -c` would put the working directory in front, which holds the parties' files: an output named
`numpy.py` would be imported.
"""

from __future__ import annotations

import os
import sys

_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split({separator!r}); from {module} import main; main()"


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `main` of a module."""
    boot = _BOOT.format(separator=os.pathsep, module=module)
    return [sys.executable, "-c", boot, os.pathsep.join(sys.path), *arguments]
