"""Makes `python -m sfworker` the `sfworker` command."""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # `-m` puts the working directory first, which may be a data root, where a job's output may be called `uvloop.py`.
    del sys.path[0]

from sfworker.cli import main

sys.exit(main())
