"""Writes the ids of the Lua scripts that Redis lets its users run into the users files."""

from __future__ import annotations

import re
from pathlib import Path

from sfworker.broker.scripts import NAMES, ids

SCRIPTS = {"worker": NAMES, "console": ("replay",)}

for file in Path(__file__).parent.glob("users*.acl"):
    lines = file.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        pins = " ".join(f"+evalsha|{each}" for each in sorted(ids(SCRIPTS.get(line.split()[1], ()))))
        lines[number] = re.sub(r"\+evalsha\S*( \+evalsha\S*)*", pins, line)
    file.write_text("".join(lines))
