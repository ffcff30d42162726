"""Makes `python -m sfworker` the `sfworker` command."""

import sys

from sfworker.cli import main

sys.exit(main())
