"""A task type whose job writes what it is told into the process's own frame socket."""

from __future__ import annotations

import os
import socket
import time
from base64 import b64decode
from typing import Annotated

from msgspec import Meta, Struct

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.wire.frames import Succeeded, encode_frame


class SayParams(TaskParams, tag="say", frozen=True, kw_only=True):
    """What to write, in Base64."""

    said: Annotated[str, Meta(description="Bytes.")]
    times: Annotated[int, Meta(description="How often.")] = 1
    log: Annotated[bool, Meta(description="To standard output instead.")] = False
    pause: Annotated[float, Meta(description="Seconds to live on.")] = 60.0
    answer: Annotated[int, Meta(description="Length of the result's text.")] = 0
    lists: Annotated[int, Meta(description="A result of as many lists, which is small until it is decoded.")] = 0


class SayResult(Struct, frozen=True, kw_only=True):
    """A text."""

    text: str


register(TaskType(name="say", summary="Says", params=SayParams, result=SayResult, session=False))


@TaskDispatcher.register_task("say")
def say(context: JobContext[SayParams]) -> SayResult:
    """Write and wait to be ended."""
    params = context.params
    said = b64decode(params.said)
    block = max(1, (1 << 16) // max(1, len(said)))
    for begun in range(0, params.times, block):
        written = said * min(block, params.times - begun)
        if params.log:
            os.write(1, written)
        else:
            _socket(context).sendall(written)
    if params.lists:
        _socket(context).sendall(encode_frame(Succeeded(b"[" + b"[]," * params.lists + b"[]]", 0)))
    time.sleep(params.pause)
    return SayResult(text="x" * params.answer)


def _socket(context: JobContext[SayParams]) -> socket.socket:
    """Return the socket that the context's frames go through."""
    cells = [cell.cell_contents for cell in context._send.__closure__ or ()]
    return next(found for found in cells if isinstance(found, socket.socket))
