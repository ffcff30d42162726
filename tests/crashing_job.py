"""A module of jobs that ends the template process which imports it, as long as the file CRASH_WHILE names is there."""

from __future__ import annotations

import os
import sys

if "sfworker.party.process" in sys.modules and os.path.exists(os.environ["CRASH_WHILE"]):
    os._exit(7)
