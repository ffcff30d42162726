"""Notes where a party process's time goes, for traces. Costs nothing where nobody asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from sfworker.wire.frames import MOST_SPANS, PartySpan, SpanName, Traced

F = TypeVar("F", bound=Callable[..., Any])
_OUTERMOST: tuple[SpanName, ...] = ("join", "make devices", "compute")
_within: ContextVar[int | None] = ContextVar("within", default=None)


class _Noted:
    """Spans of one execution, by the order of their beginnings."""

    def __init__(self) -> None:
        self.spans: list[PartySpan] = []
        self.left_out = 0
        self.outermost = -1
        """What runs in SecretFlow's threads, which know no context, lies within this one."""


_noted: _Noted | None = None


def begin(*, traced: bool) -> None:
    """Begin to note an execution, or stop noting."""
    global _noted  # noqa: PLW0603 - of this process, as SecretFlow's session is
    _noted = _Noted() if traced else None


def taken() -> Traced | None:
    """Return what was noted of the execution, once, and None where nobody asked."""
    noted = _noted
    begin(traced=False)
    return Traced(list(noted.spans), noted.left_out) if noted else None


def span(name: SpanName) -> AbstractContextManager[None]:
    """Note the time of the block."""
    return nullcontext() if _noted is None else _noting(_noted, name)


def spanned(name: SpanName) -> Callable[[F], F]:
    """Note the time of each call of a function."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with span(name):
                return function(*arguments, **named)

        return call  # type: ignore[return-value]

    return decorate


@contextmanager
def _noting(noted: _Noted, name: SpanName) -> Iterator[None]:
    if len(noted.spans) >= MOST_SPANS:
        noted.left_out += 1
        yield
        return
    index, outer = len(noted.spans), _within.get()
    within = -1 if name in _OUTERMOST else noted.outermost if outer is None else outer
    began = time.time()
    noted.spans.append(PartySpan(name, began, began, within))
    if within == -1:
        noted.outermost = index
    token = _within.set(index)
    try:
        yield
    finally:
        _within.reset(token)
        noted.spans[index] = PartySpan(name, began, max(began, time.time()), within)
