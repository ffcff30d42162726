"""The `sfworker` command: one module per subcommand, each with `SUMMARY`, `add_arguments` and `run`.

What a subcommand needs beyond argparse is imported when it runs, so that `sfworker --help` and a typing error answer at
once. Exit codes: 0 done, 1 it did not work out (the job failed, Redis is away), 2 wrong usage or settings, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn, Protocol

_SUBCOMMANDS = ("run", "submit", "watch", "status", "cancel", "dead", "replay", "tasks", "schema", "doctor", "demo")


class _Subcommand(Protocol):
    SUMMARY: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence and where to read on, instead of the whole usage."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code."""
    from sfworker.cli.child import open_standard_streams
    from sfworker.errors import EnvelopeError, SecretFlowTaskError, SettingsError, TaskTypeNotFoundError

    open_standard_streams()
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # here, so that a reader that is gone is noticed below
        return code
    except (SettingsError, EnvelopeError, TaskTypeNotFoundError) as error:
        return _explain(error, 2)
    except SecretFlowTaskError as error:
        return _explain(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `sfworker tasks | head`: nobody reads any more, which is no error. Python would still complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    from sfworker import __version__

    parser = _Parser(prog="sfworker", description="Runs SecretFlow jobs from a Redis Stream.")
    parser.add_argument("--version", action="version", version=f"sfworker {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _SUBCOMMANDS:
        module: _Subcommand = import_module(f"sfworker.cli.{name}")  # type: ignore[assignment, unused-ignore]
        subparser = subparsers.add_parser(name, help=module.SUMMARY, description=f"{module.SUMMARY}.")
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _explain(error: Exception, code: int) -> int:
    print(f"sfworker: {error}", file=sys.stderr)
    return code
