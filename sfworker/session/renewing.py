"""Readies a session that has served an execution for the next one. Runs in the party process, on its main thread.

    gc -> all calls and sends of the execution end -> SPU variables are deleted -> what still holds data is named

The links stay. Numbers of fed objects begin anew for each execution, far above those of the last one, because each
party frees SPU variables when its garbage collector finds them, which counts, too.
"""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from secretflow.device import HEUObject, PYUObject, SPUObject
from secretflow.distributed.fed.global_context import get_global_context

from sfworker.session import fed_proxy
from sfworker.wire.frames import Start

NUMBERS = 1 << 40
"""Fed objects that an execution may have."""
_EXECUTORS = ("_task_executor", "_send_executor", "_recv_executor")
_OF_DATA = (SPUObject, PYUObject, HEUObject)
_SENT_SECONDS = 5.0


def number_anew(start: Start) -> None:
    """Let the fed objects of this execution have the same numbers at all parties."""
    context = get_global_context()
    context._seq_count = start.number * NUMBERS
    context._proxy.forget(context._seq_count)


def settle(start: Start) -> list[str]:
    """Wait until nothing of the execution runs any more, and name what is wrong with the session.

    A call that never ends is the daemon's to notice.
    """
    gc.collect()  # frees SPU variables, for which calls are made
    context = get_global_context()
    for name in _EXECUTORS:
        getattr(context, name).shutdown(wait=True)  # its threads may hold what the job has set in them
        setattr(context, name, ThreadPoolExecutor())
    sent = threading.Event()

    def look_on() -> bool:
        sent.set()
        return True

    context._clean_queue.put(look_on)
    context._proxy.forget((start.number + 1) * NUMBERS)
    if not sent.wait(_SENT_SECONDS) or context.get_last_exception() is not None or not context._atomic_shutdown_flag:
        return ["an error in the session"]
    return []


def own_threads() -> set[threading.Thread]:
    """Return the threads that stay as long as the session."""
    links = {each for each in threading.enumerate() if each.name in fed_proxy.THREADS}
    return {get_global_context()._clean_thread, *links}


def forget_variables(spus: list[Any], party: str | None) -> None:
    """Delete this party's shares of all values on the SPUs."""
    for spu in spus:
        if party in spu.actors:
            spu.actors[party]._cls_fed_obj.get_object().forget()


def device_objects_left() -> list[str]:
    """Name the kinds of device objects that something still holds, each of which leads to data."""
    return sorted({type(each).__name__ for each in gc.get_objects() if isinstance(each, _OF_DATA)})
