"""`sfworker logs`: print the log of one execution, on a host whose worker ran it."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_redis_arguments, connected_client, settings_from
from sfworker.errors import SecretFlowTaskError, SettingsError
from sfworker.settings import variable

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Print the log of a job, on a host whose worker ran it"
LOOK_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", type=not_empty, metavar="ID", help="the execution_id of the envelope")
    parser.add_argument("--follow", action="store_true", help="go on with what is written, until the job has ended")
    parser.add_argument("--json", action="store_true", help="print lines of JSON, for programs")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from sfworker.job_logs import log_file_of

    settings, execution_id = settings_from(arguments), arguments.execution_id
    if not settings.job_logs:
        raise SettingsError(f"{variable('job_logs')}: names no directory here, so workers keep no logs of jobs")
    log = _Log(log_file_of(settings.job_logs, execution_id), as_json=arguments.json)
    if arguments.follow:
        asyncio.run(_follow(log, execution_id, settings))
    elif not log.print_new():
        raise SecretFlowTaskError(
            f"no log of {execution_id} is kept on this host; `sfworker show` names the worker that ran it"
        )
    return 0


class _Log:
    """The file of a log, of which more and more is printed."""

    def __init__(self, file: Path, *, as_json: bool) -> None:
        self._file = file
        self._as_json = as_json
        self._read = 0
        self._rest = b""

    def print_new(self) -> bool:
        """Print the lines that were not printed yet, and return whether there is a log."""
        from sfworker.logs import shown_line

        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                said = file.read()
        except FileNotFoundError:
            return False
        self._read += len(said)
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            print(text if self._as_json else shown_line(text), flush=True)
        return True


async def _follow(log: _Log, execution_id: str, settings: Settings) -> None:
    async with connected_client(settings) as client:
        while True:
            known = await client.find(execution_id)
            log.print_new()  # after the look at the state, so that what was written before the end is not missed
            if known is not None and known.state == "answered":
                return
            await anyio.sleep(LOOK_SECONDS)
