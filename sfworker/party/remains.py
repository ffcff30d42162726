"""Restores a process that has run a job, and names what cannot be removed of it. Runs in party processes.

Settings are restored (`restoring`). Threads, processes, descriptors, mappings, modules, device objects and changes to
global objects of our modules and of jobs' are only named, and then the process serves no other job. This finds what
mistakes leave behind, not code that hides it: jobs are the operator's own code.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import resource
import socket
import sys
import sysconfig
import termios
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from sfworker.party import memory
from sfworker.party.restoring import restores

_PATHS = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES = tuple({f"{each}{os.sep}" for path in _PATHS for each in (path, os.path.realpath(path))})
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_HARMLESS = ("/dev/null", "/dev/urandom", "/dev/random", "/proc/", "/sys/", "anon_inode:")
_CONTAINERS = (list, tuple, set, frozenset, dict, deque, bytearray)
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__abstractmethods__", "_abc_impl")
_OF_PYTHON = ("__builtins__", "__warningregistry__")
_DEEPEST = 4
_LARGEST = 10_000
"""Elements of a container that are looked at."""


class Before:
    """Holds what this process was before its first job."""

    def __init__(self, session_dir: str) -> None:
        self._session_dir = session_dir
        self._restores = restores()
        self._limits = _limits()
        self._modules = dict(sys.modules)
        self._descriptors = _descriptors()
        self._mappings = _shared(_mapped())
        self._own = {name: vars(each) for name, each in sys.modules.items() if _is_own(name, each)}
        self._walked = self._own.keys() - {"builtins"}
        """Modules of whose classes the members count, too."""
        self._referred: dict[str, dict[int, Any]] = {name: {} for name in self._own}
        """Each module's objects by their ids, kept alive so that no other object gets these."""
        self._globals = {name: self._inside(held, self._referred[name]) for name, held in self._own.items()}

    def look_again(self) -> None:
        """Take descriptors that are open now for the session's own."""
        self._descriptors = _descriptors()

    def restore(self, own_threads: set[threading.Thread]) -> list[str]:
        """Restore what can be, and name what remains of the job. The session's own threads are none of that."""
        for restore in self._restores:
            restore()
        for held in self._own.values():
            for value in held.values():
                # Those without a bound are not caches of what jobs have read.
                if isinstance(value, functools._lru_cache_wrapper) and value.cache_parameters()["maxsize"]:
                    value.cache_clear()
        memory.give_back()
        with suppress(OSError):  # from here on the highest memory is the next job's
            Path("/proc/self/clear_refs").write_text("5")
        return [*self._remaining(own_threads)]

    def _remaining(self, own_threads: set[threading.Thread]) -> Iterator[str]:
        if _limits() != self._limits:
            yield "limits"
        if _has_children():
            yield "processes"
        if set(threading.enumerate()) - own_threads - {threading.main_thread()}:
            yield "threads"
        mapped = _mapped()
        code = {path for kind, path in mapped if "x" in kind}
        new = _descriptors().items() - self._descriptors.items()
        # Libraries open their code to name functions in it.
        if any(self._is_strange(number, target) for number, target in new if target not in code):
            yield "descriptors"
        if _shared(mapped) - self._mappings:
            yield "mappings"
        if gc.garbage:
            yield "garbage"
        replaced = any(sys.modules.get(name, self) is not each for name, each in self._modules.items())
        if replaced or not all(_is_library(each) for name, each in sys.modules.items() if name not in self._modules):
            yield "modules"
        for name, before in self._globals.items():
            if self._inside(self._own[name], {}) != before:
                yield f"globals of {name}"[:100]

    def _is_strange(self, number: int, target: str) -> bool:
        """Return whether a descriptor is none that the session or a library opens."""
        if target.startswith((*_HARMLESS, f"{self._session_dir}/")):  # an SPU's log
            return False
        if target.startswith("pipe:"):  # a library's own, by which its threads wake each other, is empty
            return bool(int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), sys.byteorder))
        names: list[str] = []
        if target.startswith("socket:"):
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as found:  # gone, or without a peer
                names.append(str(found.getsockname()))
                names.append(str(found.getpeername()))
        return not any(name.startswith(self._session_dir) for name in names)

    def _print(self, value: Any, referred: dict[int, Any], depth: int) -> int:
        """Return a number that is the same as long as the object, and what it holds, is the same."""
        if isinstance(value, _PLAIN):
            return hash((type(value), value))
        if id(value) in referred:
            return id(value)
        referred[id(value)] = value
        inside = 0
        if isinstance(value, FunctionType):
            inside = hash((id(value.__code__), id(value.__defaults__), self._inside(vars(value), referred, 0)))
        elif not depth:
            pass
        elif isinstance(value, dict):
            inside = self._inside(value, referred, depth - 1)
        elif isinstance(value, _CONTAINERS):
            elements = [*value][:_LARGEST]
            inside = hash((len(value), *(self._print(each, referred, depth - 1) for each in elements)))
        elif isinstance(value, type) and value.__module__ in self._walked:
            members = {name: each for name, each in vars(value).items() if name not in _OF_CLASSES}
            inside = self._inside(members, referred, depth - 1)
        elif type(value).__module__ in self._walked and hasattr(value, "__dict__"):
            inside = self._inside(vars(value), referred, depth - 1)
        return hash((id(value), inside))

    def _inside(self, mapping: dict[Any, Any], referred: dict[int, Any], depth: int = _DEEPEST) -> int:
        found = count = 0
        for name, value in mapping.items():
            if name not in _OF_PYTHON and count < _LARGEST:
                count += 1
                found = hash((found, self._print(name, referred, depth), self._print(value, referred, depth)))
        return found


def _is_own(name: str, module: Any) -> bool:
    """Return whether a module is ours or of a job, not of a library."""
    is_ours = name.split(".", maxsplit=1)[0] in ("sfworker", "builtins")
    return is_ours or (getattr(module, "__file__", None) is not None and not _is_library(module))


def _is_library(module: Any) -> bool:
    if not isinstance(module, ModuleType):
        return True  # a name that stands for no module, as that of Ray
    spec = getattr(module, "__spec__", None)
    origin = getattr(module, "__file__", None) or (spec.origin if spec is not None else None)
    if origin is None:
        return spec is not None
    return origin in ("built-in", "frozen") or origin.startswith(_LIBRARIES)


def _limits() -> list[Any]:
    return [os.getpriority(os.PRIO_PROCESS, 0), *map(resource.getrlimit, _LIMITS)]


def _has_children() -> bool:
    """Return whether there are processes that this one has started, or others of its group."""
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    own = os.getpgrp(), os.getpid()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == own[0] and pid != own[1]:
                return True
    return False


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of this listing
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _shared(mapped: list[tuple[str, str]]) -> set[str]:
    """Return the files that this process and others may write to as memory."""
    return {path for kind, path in mapped if "s" in kind and not path.startswith("/dev/zero")}


def _mapped() -> list[tuple[str, str]]:
    """Return the permissions and the path of each file that is mapped."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return [(words[1], words[5]) for words in lines if len(words) == 6]
