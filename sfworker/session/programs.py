"""Compiles each SPU program once, and keeps it for later executions. Runs in party processes.

    call -> compiled by this process -> compiled by another one of this worker and tenant, in a file -> compiled now

Files are for processes that have the same code in memory, as forks of one nursery do. So a function of an installed
package is identified by its own code; what it calls is the same in all of them.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import marshal
import os
import secrets
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import jax
from secretflow.device.device import spu as spu_module

from sfworker.errors import RecurringError
from sfworker.session import codec, fed_values  # noqa: F401 - the last registers programs
from sfworker.session.spans import span

_log = logging.getLogger("sfworker.party")
# Types of static arguments that `repr` identifies.
_PLAIN = (Enum, str, int, float, type(None))
_INSTALLED = ("sfworker", "secretflow", "sml", "spu", "jax")
"""Packages whose functions do not change with what a job sets in its module."""
_LOADED = secrets.token_hex(16)
"""Is the same in all forks of the process that has loaded this module."""
_MARSHAL_VERSION = 2
"""Later ones write the same code in several ways."""


class Program(NamedTuple):
    """Identifies the code and the static arguments of a function."""

    code: CodeType
    static: tuple[Any, ...]
    module: str


class Kept:
    """Holds compiled programs in files of a directory, of which the longest unused ones give way."""

    def __init__(self, directory: str, most_bytes: int) -> None:
        self._directory = Path(directory)
        self._most_bytes = most_bytes

    def read(self, name: str) -> Any:
        """Return a program with what it returns, None where there is none."""
        path = self._directory / name
        try:
            kept = path.read_bytes()
            os.utime(path)
            return codec.loads(kept)
        except FileNotFoundError:
            return None
        except (OSError, RecurringError) as error:
            _log.warning("a compiled program that was kept cannot be read (%s)", type(error).__name__)
            return None

    def write(self, name: str, compiled: Any) -> None:
        """Keep a program, where there is room."""
        try:
            kept = codec.dumps(compiled)
            if len(kept) > self._most_bytes:
                return
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(kept))
            whole = self._directory / name
            part = whole.with_name(f"{name}.{os.getpid()}")
            try:
                part.write_bytes(kept)
                part.replace(whole)
            finally:
                part.unlink(missing_ok=True)
        except (OSError, RecurringError) as error:
            _log.warning("a compiled program could not be kept (%s)", type(error).__name__)

    def _make_room(self, size: int) -> None:
        used = []
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another process has made room, too
                found = path.stat()
                used.append((found.st_mtime_ns, found.st_size, path))
        left = self._most_bytes - size - sum(each for _, each, _ in used)
        for _, each, path in sorted(used):
            if left >= 0:
                return
            path.unlink(missing_ok=True)
            left += each


def use_compiled_again(kept: Kept | None) -> None:
    """Make the SPU compile a program once, not at each call, as all batches of an epoch are one program.

    Call once per process. A program is identified by its code, its static arguments, and the shapes, types and
    visibilities of the others. A function that carries more (a closure, say) is compiled at each call as before. Those
    of jobs of one's own are not `kept`, as they may read what their modules hold.
    """
    stock_compile = spu_module._spu_compile
    compiled: dict[Any, Any] = {}

    def compile_now(function: Any, options: Any, name: str, *arguments: Any, **named: Any) -> Any:
        with span("compile"):
            return stock_compile(function, options, name, *arguments, **named)

    def compile_once(function: Any, options: Any, name: str, *arguments: Any, **named: Any) -> Any:
        program = identify(function)
        if program is None:
            return compile_now(function, options, name, *arguments, **named)
        leaves, tree = jax.tree_util.tree_flatten((arguments, named))
        key = (program, name, options, tree, tuple((leaf.shape, str(leaf.dtype), leaf.vtype) for leaf in leaves))
        if key not in compiled:
            file = _file_name(key) if kept is not None and program.module in _INSTALLED else ""
            found = kept.read(file) if kept is not None and file else None
            compiled[key] = found or compile_now(function, options, name, *arguments, **named)
            if kept is not None and file and found is None:
                kept.write(file, compiled[key])
        executable, shape = compiled[key]
        return copy.deepcopy(executable), shape  # a run writes names of variables into the executable

    spu_module._spu_compile = compile_once


def identify(function: Any) -> Program | None:
    """Return what identifies the code and static arguments of a function, None where it carries more than that."""
    static: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        if function.args:
            return None
        function, static = function.func, function.keywords
    if not isinstance(function, FunctionType) or function.__closure__ or function.__kwdefaults__:
        return None
    values = [*(function.__defaults__ or ()), *static.values()]
    if not all(isinstance(value, _PLAIN) for value in values):
        return None
    arguments = (tuple(static), tuple((type(value), repr(value)) for value in values))
    return Program(function.__code__, arguments, function.__module__.partition(".")[0])


def _file_name(key: tuple[Any, ...]) -> str:
    (code, static, module), name, options, tree, leaves = key
    set_options = [(each, repr(getattr(options, each))) for each in dir(options) if not each.startswith("_")]
    told = repr((_LOADED, static, module, name, set_options, str(tree), leaves))
    return hashlib.sha256(marshal.dumps(code, _MARSHAL_VERSION) + told.encode()).hexdigest()
