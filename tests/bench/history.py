"""What each step costs Redis by how many executions have ended, wait for their next attempt or have failed for good."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from redis.asyncio import Redis

from sfworker.broker.broker import Attempt, Broker, open_broker
from sfworker.broker.dead import dead_by_page, find_dead_job
from sfworker.broker.finding import Wanted, executions, find
from sfworker.broker.overview import overview
from sfworker.broker.readers import slow_reader
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.settings import Settings
from tests.bench.measuring import Figures

SIZES = (1_000, 100_000, 1_000_000)
MOST_WAITING = 200_000
LONGEST_MS = 5.0
GROUP = "secretflow"
EVENT = (b'{"attempt":', b',"status":"RUNNING"}')
RESULT = json.dumps({"status": "success", "result": "x" * 400}).encode()
ENVELOPE = json.dumps({"task_config": {"task_type": "psi", "keys": "x" * 400}}).encode()

# Written as the scripts leave them, by the ten thousand.
_ENDED = """
local time = redis.call('TIME')[1] * 1000
for n = ARGV[1], ARGV[2] do
  local record = 'sf:exec:ended-' .. n
  redis.call('HSET', record, 'group', ARGV[3], 'run', '0123456789abcdef', 'state', 'done', 'status', 'SUCCESS',
    'answered', 'sf:jobs 1-' .. n)
  redis.call('EXPIRE', record, 604800)
  redis.call('SET', 'sf:result:ended-' .. n, ARGV[4], 'EX', 86400)
  redis.call('SET', 'sf:envelope:ended-' .. n, ARGV[5], 'EX', 86400)
  local facts = cjson.encode({'ended-' .. n, 'SUCCESS', 'psi', '', 'filler', 1, 0, 'sf:jobs', '1-' .. n, 't', 's'})
  redis.call('ZADD', 'sf:ended', time - ARGV[2] + n, facts)
  redis.call('XADD', 'sf:results', '*', 'kind', 'status', 'execution_id', 'ended-' .. n, 'payload', '{}')
end
"""
_HELD = """
local time = redis.call('TIME')[1] * 1000
for n = ARGV[1], ARGV[2] do
  local id = ARGV[4] .. n
  local envelope = '{"execution_id":"' .. id .. '","task_id":"t","subtask_id":"s"}'
  local entry = redis.call('XADD', 'sf:jobs', '*', 'envelope', envelope)
  redis.call('XREADGROUP', 'GROUP', ARGV[3], 'filler', 'COUNT', 1, 'STREAMS', 'sf:jobs', '>')
  redis.call('XCLAIM', 'sf:jobs', ARGV[3], ARGV[4], 0, entry, 'JUSTID')
  redis.call('HSET', 'sf:exec:' .. id, 'group', ARGV[3], 'stream', 'sf:jobs', 'entry', entry, 'run', '0123456789abcdef',
    'state', ARGV[4] == '@dead' and 'dead' or 'retry', 'attempt', 1, 'crashes', 0, 'releases', 0, 'error_type', 'E')
  if ARGV[4] == '@retry' then
    redis.call('ZADD', 'sf:retries:normal:' .. ARGV[3], time + 3600000, entry)
    redis.call('HSET', 'sf:answers:' .. ARGV[3], 'sf:jobs ' .. entry, '["' .. id .. '","t","s"]')
  end
end
"""
WALKS = (*("restore all due times", "settle all past retention", "list", "list, waiting", "show, unknown"),)
"""Steps that have something to do for each, or look at each, in many short commands."""
Step = Callable[[], Awaitable[Any]]


def history(figures: Figures) -> None:
    """For each step Redis' time and the longest single command, at each size."""
    measured: dict[str, list[tuple[float, float]]] = {}
    for size in SIZES:
        with EmbeddedRedis("--appendonly", "no") as server:
            each, found = asyncio.run(_measure(server.url, size))
        for step, costs in found.items():
            measured.setdefault(step, []).append(costs)
    figures.add("time in Redis, by executions that ended", " / ".join(f"{size:,}" for size in SIZES))
    for step, costs in measured.items():
        shown = " / ".join(f"{total:.2f}" for total, _ in costs) + " ms"
        longest = max(longest for _, longest in costs)
        flat = step in WALKS or costs[-1][0] <= 3 * costs[0][0] + 1.0
        target = f"{'' if step in WALKS else 'the same, '}longest < {LONGEST_MS:g} ms"
        figures.add(f"{step}", f"{shown}; longest {longest:.2f}", target, flat and longest < LONGEST_MS)
    figures.add("record of an execution that ended", f"{each} B")


async def _measure(url: str, size: int) -> tuple[int, dict[str, tuple[float, float]]]:
    settings = Settings(redis_url=url, lease_seconds=3600)
    async with Redis.from_url(url) as redis, open_broker(settings, GROUP, "worker") as broker:
        await broker.ensure_groups()
        each = await fill(redis, size)
        await redis.config_set("slowlog-log-slower-than", 0)
        await redis.config_set("slowlog-max-len", 100_000)
        found = {}
        for name, step in (await steps(redis, broker, settings)).items():
            await redis.slowlog_reset()
            await step()
            # The commands that look at the slow log are no part of the step.
            spent = [one["duration"] for one in await redis.slowlog_get(100_000) if b"SLOWLOG" not in one["command"]]
            # Of thousands of commands, some are held up by the machine.
            found[name] = (sum(spent) / 1000, sorted(spent)[int(len(spent) * 0.999)] / 1000)
    return each, found


async def fill(redis: Any, size: int) -> int:
    """Make `size` executions that have ended, up to 200,000 that wait, and as many dead. Return a record's bytes."""
    waiting = min(size, MOST_WAITING)
    for first in range(0, size, 10_000):
        await redis.eval(_ENDED, 0, first, min(first + 9_999, size - 1), GROUP, RESULT, ENVELOPE)
    for consumer in ("@retry", "@dead"):
        for first in range(0, waiting, 10_000):
            await redis.eval(_HELD, 0, first, min(first + 9_999, waiting - 1), GROUP, consumer)
    return int(await redis.memory_usage("sf:exec:ended-0"))


async def steps(redis: Any, broker: Broker, settings: Settings) -> dict[str, Step]:
    keys = broker.keys
    attempts: list[Attempt] = []

    async def take() -> None:
        for entry in await broker.take([2]):
            attempts.append(Attempt(entry, secrets.token_hex(8), secrets.token_hex(8), "t", "s"))

    async def begin() -> None:
        await redis.xadd("sf:jobs", {"envelope": "{}"})
        await take()
        await broker.start(attempts[-1], EVENT)

    async def list_(page: int = 50, **wanted: Any) -> None:
        async for _ in executions(redis, keys, GROUP, Wanted(**wanted)):
            page -= 1
            if page == 0:
                return

    async def again() -> None:
        await redis.xadd("sf:jobs", {"envelope": "{}"})
        [entry] = await broker.take([2])
        await broker.start(Attempt(entry, "again", "ended-0", "t", "s"), EVENT)

    async def show() -> None:
        found = await find(redis, keys, GROUP, "ended-0")
        assert found is not None

    async def reconnect() -> None:
        await broker.ensure_groups()
        async with broker.cancellations() as said:
            with anyio.move_on_after(0.5):
                await anext(said)

    async def one_dead() -> Attempt:
        async for page in dead_by_page(redis, keys, GROUP):
            return page[0].attempt
        raise SystemExit("nothing is dead")

    async def purge() -> None:
        await broker.purge((await one_dead()).entry)

    async def replay() -> None:
        await broker.replay(await one_dead(), b"{}")

    async def cancel() -> None:
        await redis.set(keys.cancel("@retry7"), "1")
        await broker.withdraw("@retry7")

    async def restore() -> None:
        await redis.delete(keys.retries(keys.jobs(), GROUP))
        await broker.tidy()

    async def settle() -> None:
        async with open_broker(msgspec.structs.replace(settings, retention=60), GROUP, "other") as other:
            dead = [job.attempt.entry.entry_id async for page in dead_by_page(redis, keys, GROUP) for job in page]
            for first in range(0, len(dead), 1000):
                await redis.xclaim(
                    keys.jobs(), GROUP, "@dead", 0, dead[first : first + 1000], idle=100_000, justid=True
                )
            await redis.slowlog_reset()
            await other.tidy()

    await redis.xgroup_create(keys.results, "reader", "$", mkstream=True)
    for _ in range(4):
        await begin()
    return {
        "status": lambda: overview(redis, keys, GROUP),
        "doctor, readers": lambda: slow_reader(redis, keys, settings),
        "start and reconnect": reconnect,
        "renewal": lambda: broker.renew(attempts[:1]),
        "sweep": lambda: broker.sweep(1, attempts),
        "tidying": broker.tidy,
        "begin a job": begin,
        "begin one that was answered": again,
        "progress": lambda: broker.progress(attempts[0], b"{}"),
        "finish": lambda: broker.finish(attempts[0], "SUCCESS", b"{}", RESULT),
        "retry": lambda: broker.retry(attempts[1], b"{}", 60),
        "failure for good": lambda: broker.bury(attempts[2], b"{}", b"{}"),
        "give back": lambda: broker.release(attempts[3], "releases"),
        "cancel one that waits": cancel,
        "list": list_,
        "list, ended": lambda: list_(states=frozenset({"success"})),
        "list, waiting": lambda: list_(states=frozenset({"waiting"})),
        "show": show,
        "show, unknown": lambda: find(redis, keys, GROUP, "unknown"),
        "dead show": lambda: find_dead_job(redis, keys, GROUP, "@dead77"),
        "dead show, unknown": lambda: find_dead_job(redis, keys, GROUP, "unknown"),
        "dead list, a page": one_dead,
        "replay one": replay,
        "purge one": purge,
        "restore all due times": restore,
        "settle all past retention": settle,
    }
