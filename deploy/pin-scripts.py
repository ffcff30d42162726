"""Writes the ids of the worker's Lua scripts, the only ones that Redis lets it run, into the users files."""

from __future__ import annotations

import re
from pathlib import Path

from sfworker.broker.scripts import ids

for file in Path(__file__).parent.glob("users*.acl"):
    pins = " ".join(f"+evalsha|{each}" for each in sorted(ids()))
    file.write_text(re.sub(r"\+evalsha\S*( \+evalsha\S*)*", pins, file.read_text()))
