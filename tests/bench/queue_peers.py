"""Workers of taskiq, saq and rq that compute nothing, and their senders. Runs in the environment of `queue.txt`.

python -m tests.bench.queue_peers work PEER REDIS_URL          works until it is killed
python -m tests.bench.queue_peers fill PEER REDIS_URL JOBS     appends jobs
python -m tests.bench.queue_peers ask PEER REDIS_URL JOBS      sends one at a time; prints as JSON when each was
                                                               sent, begun and answered

Each is set up as its documentation says, with as many jobs at a time as the stub worker has. What waits for an answer
hears of it where the library can tell (rq), and asks every millisecond where not (taskiq, saq).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

AT_A_TIME = 64
PAUSE = 0.02
POLL = 0.001
ANSWER_SECONDS = 30
Times = tuple[float, float, float]


async def begin(*context: Any) -> float:
    """Compute nothing, and answer when that was."""
    return time.time()


def begin_forked() -> float:
    return time.time()


async def _asked(number: int, ask: Callable[[], Awaitable[Times | None]]) -> list[Times]:
    times: list[Times] = []
    while len(times) < number:
        await asyncio.sleep(PAUSE)
        if (answered := await ask()) is not None:
            times.append(answered)
    return times


async def taskiq(role: str, url: str, number: int) -> list[Times]:
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    broker = RedisStreamBroker(url, consumer_id="0", socket_timeout=None).with_result_backend(
        RedisAsyncResultBackend(url)
    )
    task = broker.register_task(begin, "begin")
    await broker.startup()
    if role == "work":
        await run_receiver_task(broker, max_async_tasks=AT_A_TIME)
    if role == "fill":
        for _ in range(number):
            await task.kiq()
        return []

    async def ask() -> Times:
        sent = time.time()
        queued = await task.kiq()
        answer = await queued.wait_result(check_interval=POLL, timeout=ANSWER_SECONDS)
        return sent, answer.return_value, time.time()

    return await _asked(number, ask)


async def saq(role: str, url: str, number: int) -> list[Times]:
    from redis.asyncio import Redis
    from saq import Status, Worker
    from saq.job import TERMINAL_STATUSES
    from saq.queue.redis import RedisQueue

    queue = RedisQueue(Redis.from_url(url, socket_timeout=None))
    await queue.connect()
    if role == "work":
        await Worker(queue, functions=[begin], concurrency=AT_A_TIME).start()
    if role == "fill":
        for _ in range(number):
            await queue.enqueue("begin")
        return []

    async def ask() -> Times | None:
        sent = time.time()
        job = await queue.enqueue("begin")
        assert job is not None
        while job.status not in TERMINAL_STATUSES:  # `until_complete` passes over an answer that is there at once
            await asyncio.sleep(POLL)
            await job.refresh()
        if job.status is not Status.COMPLETE:  # a worker that starts takes a job just begun for a lost one
            return None
        return sent, job.result, time.time()

    return await _asked(number, ask)


async def rq(role: str, url: str, number: int) -> list[Times]:
    from redis import Redis
    from rq import Queue, Worker

    queue = Queue(connection=Redis.from_url(url))
    if role == "work":
        Worker([queue], connection=queue.connection).work(logging_level="WARNING")
    if role == "fill":
        for _ in range(number):
            queue.enqueue("tests.bench.queue_peers.begin_forked")
        return []

    async def ask() -> Times:
        sent = time.time()
        job = queue.enqueue("tests.bench.queue_peers.begin_forked")
        answer = job.latest_result(timeout=ANSWER_SECONDS)
        assert answer is not None
        return sent, answer.return_value, time.time()

    return await _asked(number, ask)


if __name__ == "__main__":
    import uvloop

    role, peer, url, *more = sys.argv[1:]
    print(json.dumps(uvloop.run(globals()[peer](role, url, int(more[0]) if more else 0))))
