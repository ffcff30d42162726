"""Notes the settings of this process before its first job, and restores them after each. Runs in party processes."""

from __future__ import annotations

import copy
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_STREAMS = ("stdin", "stdout", "stderr", "excepthook", "displayhook")


def restores() -> list[Callable[[], object]]:
    """Return functions that make this process's settings again what they are now."""
    return [*_of_system(), *_of_python(), *_of_libraries()]


def _of_system() -> Iterator[Callable[[], object]]:
    environment, umask = dict(os.environ), os.umask(0o77)
    os.umask(umask)
    yield partial(_replace, os.environ, environment)
    yield time.tzset
    yield partial(os.umask, umask)
    yield partial(os.chdir, "/")  # out of the execution's directory, until the next one's
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if (handler := signal.getsignal(number)) is not None:  # it is a library's
            yield partial(signal.signal, number, handler)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        yield partial(signal.setitimer, timer, 0.0)
    yield partial(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    for name in _LIMITS:
        yield partial(_limit, name, resource.getrlimit(name))
    yield partial(use_processors, os.sched_getaffinity(0))
    yield partial(locale.setlocale, locale.LC_ALL, locale.setlocale(locale.LC_ALL))


def _of_python() -> Iterator[Callable[[], object]]:
    yield partial(setattr, tempfile, "tempdir", tempfile.tempdir)
    for name in _STREAMS:
        yield partial(setattr, sys, name, getattr(sys, name))
    for each in (sys.path, sys.argv, sys.meta_path, sys.path_hooks):
        yield partial(each.__setitem__, slice(None), [*each])
    yield partial(sys.setrecursionlimit, sys.getrecursionlimit())
    yield partial(sys.setswitchinterval, sys.getswitchinterval())
    yield partial(sys.settrace, None)
    yield partial(sys.setprofile, None)
    yield gc.enable
    yield partial(gc.set_threshold, *gc.get_threshold())
    yield partial(socket.setdefaulttimeout, socket.getdefaulttimeout())
    yield partial(_filter_warnings, [*warnings.filters])
    yield partial(logging.disable, logging.root.manager.disable)
    loggers = {each: (dict(vars(each)), [*each.handlers], [*each.filters]) for each in _loggers()}
    yield partial(_restore_loggers, loggers)
    yield logging.root.manager._clear_cache  # type: ignore[attr-defined]


def _of_libraries() -> Iterator[Callable[[], object]]:
    import jax
    import numpy
    import pyarrow
    from pandas._config import config

    yield partial(numpy.seterr, **numpy.geterr())
    yield partial(numpy.set_printoptions, **numpy.get_printoptions())
    yield partial(_configure_jax, jax.config, jax.config.values)
    options: dict[str, Any] = config._global_config
    kept = copy.deepcopy(options)
    yield lambda: _replace(options, copy.deepcopy(kept))
    yield partial(pyarrow.set_cpu_count, pyarrow.cpu_count())
    yield partial(pyarrow.set_io_thread_count, pyarrow.io_thread_count())


def use_processors(processors: Any) -> None:
    """Let all threads of this process, those of libraries among them, run on these processors alone."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), processors)


def _replace(mapping: Any, values: dict[str, Any]) -> None:
    if dict(mapping) != values:
        mapping.clear()
        mapping.update(values)


def _limit(name: int, limits: tuple[int, int]) -> None:
    with suppress(ValueError, OSError):  # it was lowered for good, which `remains` notices
        resource.setrlimit(name, limits)


def _loggers() -> list[logging.Logger]:
    found = logging.root.manager.loggerDict.values()
    return [logging.root, *(each for each in found if isinstance(each, logging.Logger))]


def _restore_loggers(loggers: dict[logging.Logger, tuple[dict[str, Any], list[Any], list[Any]]]) -> None:
    for logger in _loggers():
        if logger in loggers:
            values, handlers, filters = loggers[logger]
            vars(logger).update(values | {"handlers": [*handlers], "filters": [*filters]})
        else:  # it is new, and becomes as it was made
            vars(logger).update(level=logging.NOTSET, handlers=[], filters=[], propagate=True, disabled=False)


def _filter_warnings(filters: list[Any]) -> None:
    if warnings.filters != filters:
        warnings.filters[:] = filters  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]


def _configure_jax(config: Any, values: dict[str, Any]) -> None:
    for name, value in config.values.items():
        if value != values[name]:
            config.update(name, values[name])
