"""No text of others steers the terminal of whoever looks: ids, names, sentences and envelopes, in every command."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from sfworker.broker.broker import open_broker
from sfworker.settings import Settings
from tests.cli.conftest import Command
from tests.cli.states import send, take

TITLE, COLOUR, TURNED = "\x1b]0;taken\x07", "\x9b31m", "\u202etxt.exe"
NASTY = f"a{TITLE}b{COLOUR}c{TURNED}"
SAID = json.dumps({"stage": "progress", "message": NASTY, "progress": 0.5, "timestamp": NASTY, "error": NASTY}).encode()
ANSWER = json.dumps({"status": "success", "result": {NASTY: NASTY, "rows": [{NASTY: NASTY}]}, "warnings": [NASTY]})
FAILED = json.dumps({"status": "failure", "error": NASTY, "error_type": NASTY}).encode()
COMMANDS = [
    ("list",),
    ("list", "--json"),
    ("list", "--text", NASTY),
    *(("show", f"{state}-{NASTY}") for state in ("queued", "runs", "done", "dead")),
    *(("watch", f"{state}-{NASTY}") for state in ("done", "dead")),
    ("show", "unknown" + NASTY),
    ("show", f"dead-{NASTY}", "--json", "--paths"),
    ("dead", "list"),
    ("dead", "list", "--json"),
    ("dead", "show", f"dead-{NASTY}"),
    ("dead", "replay", f"done-{NASTY}"),
    ("cancel", f"done-{NASTY}"),
    ("status",),
    ("status", "--group", NASTY),
    ("tasks", NASTY),
    (NASTY,),
]


async def fill(redis: Any, redis_url: str) -> None:
    """Leave a job with nasty texts in each state."""
    async with open_broker(Settings(redis_url=redis_url), "secretflow", f"w{NASTY}") as broker:
        await broker.ensure_groups()
        named: dict[str, Any] = {"task_id": NASTY, "subtask_id": NASTY, "sf_init_config": {"parties": [NASTY]}}
        send(redis, f"done-{NASTY}", **named)
        attempt = await take(broker)
        await broker.progress(attempt, SAID)
        await broker.finish(attempt, "SUCCESS", SAID, ANSWER.encode())
        send(redis, f"dead-{NASTY}", **named)
        await broker.bury(await take(broker), SAID, FAILED)
        send(redis, f"runs-{NASTY}", **named)
        await broker.progress(await take(broker), SAID)
        send(redis, f"queued-{NASTY}", NASTY, **named)
        send(redis, f"lines-{NASTY}\n  another  success", **named)


@pytest.mark.attack("terminal")
def test_no_text_of_others_steers_a_terminal(sfworker: Command, redis: Any, redis_url: str) -> None:
    asyncio.run(fill(redis, redis_url))
    for words in COMMANDS:
        outcome = sfworker(*words)
        said = outcome.out + outcome.err
        assert said, words
        assert not re.findall(r"[^\n]", "".join(each for each in said if not each.isprintable())), (words, said)
    listed = json.loads(sfworker("list", "--json").out)
    assert {one["execution_id"].partition("-")[2].partition("\n")[0] for one in listed["executions"]} == {NASTY}
    assert not any(line.startswith("  another") for line in sfworker("list").out.splitlines())


@pytest.mark.attack("terminal")
@pytest.mark.parametrize("words", [("list",), ("watch", f"done-{NASTY}")], ids=lambda words: words[0])
def test_colours_and_bars_are_the_only_things_that_do(redis: Any, redis_url: str, words: tuple[str, ...]) -> None:
    asyncio.run(fill(redis, redis_url))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sfworker", *words]
    environment = {**os.environ, "REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while read := os.read(ours, 65_536):
            said += read
    except OSError:  # everybody has closed the other end
        pass
    os.close(ours)
    assert process.wait(30) == 0, said
    text = said.decode()
    assert "taken" in text
    assert not any(each in text for each in (TITLE, "\x1b]", "\x07", "\x9b", "\u202e"))
