"""Offers the worker's operations on Redis. Runs in the daemon and is the only code there that sends commands.

State changes are the scripts in `lua/`: each changes an execution's state and publishes what happened in one step, and
refuses to act for a worker that no longer owns the pending entry.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import cycle
from typing import Any, Literal, cast

import anyio
import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.connection import COMMAND_SECONDS, connect
from sfworker.broker.entry import Entry, entry_from_fields, entry_from_parcel
from sfworker.broker.gauges import Gauges, gauges
from sfworker.broker.keys import DEAD_CONSUMER, PRIORITIES, RETRY_CONSUMER, Keys
from sfworker.broker.limits import RUNNING, STARTS, limits_of_settings, of_tenant, of_type
from sfworker.broker.misplaced import places
from sfworker.broker.orders import DRAIN, LIMIT, NEVER_DUE, PAUSE_TYPE
from sfworker.broker.overview import last_delivered
from sfworker.broker.pipe import Pipe
from sfworker.broker.readers import SlowReader, slow_reader
from sfworker.broker.scripts import Scripts
from sfworker.settings import OUTCOMES, Outcome, Settings
from sfworker.wire.envelope import decode_ids, decode_task_type

_log = logging.getLogger("sfworker.broker")
BLOCK_SECONDS = 1.0
FORGET_IDLE_SECONDS = 600.0
FORGET_WORKER_SECONDS = 86_400.0
"""Longer than anything that a worker comes back from."""
OUTLAST_SECONDS = 86_400
"""Time by which the record of a buried entry outlasts it, so that whoever has the execution's id finds it."""
PAGE = 100
MOST_GIVEN_BACK = 1000
MOST_FORGOTTEN = 500
BESIDE_BYTES = 4096
"""Room in an entry beside the envelope: names of fields and the `traceparent`."""
_LOOKED_FOR = b"looked for"
_FIRST = b"-"
"""Start of a walk by pages, as `lua/tidy.lua` and `lua/restore.lua` take it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of one execution by this worker, whose state the scripts change."""

    entry: Entry
    run: str
    """Unique id by which a script recognises a call that was repeated after its reply was lost."""
    execution_id: str | None
    task_id: str | None
    subtask_id: str | None

    @classmethod
    def of(cls, entry: Entry) -> Attempt:
        """Return a new attempt at the job in `entry`."""
        known = decode_ids(entry.envelope or b"")
        return cls(
            entry,
            secrets.token_hex(8),
            known.execution_id if known.usable() else None,
            _text(known.task_id),
            _text(known.subtask_id),
        )

    @property
    def known_as(self) -> str:
        """Id of the execution, or of its entry where the envelope holds none."""
        return self.execution_id or self.entry.entry_id

    @property
    def task_type(self) -> str:
        """Type of the task, as the envelope names it; empty where it names none."""
        return decode_task_type(self.entry.envelope or b"")

    @property
    def record_name(self) -> str:
        """As `known_as`, but unique: two streams may have entries of the same id."""
        return self.execution_id or _place(self.entry)


@dataclass(frozen=True, slots=True)
class Started:
    """Reply to the start of an attempt, as `lua/start.lua` describes it."""

    verdict: Literal["run", "held", "limited", "cancelled", "poison", "duplicate", "lost"]
    attempt: int
    crashes: int
    releases: int
    written: list[str] = field(default_factory=list)
    """Paths that earlier attempts staged beside their targets and may have left there."""
    replays: int = 0
    """Number of times that somebody has let the execution run again."""

    @property
    def used_up(self) -> int:
        """Attempts that count against `max_retries`."""
        return self.attempt - self.crashes - self.releases


Replay = Literal["replayed", "not dead", "gone", "superseded"]
"""Outcome of a replay, as `lua/replay.lua` describes it."""


class Lease(IntEnum):
    """State of an attempt's lease after a renewal. The numbers are those of `lua/renew.lua`."""

    LOST = 0
    HELD = 1
    TO_BE_CANCELLED = 2


class Broker:
    """One worker's access to one consumer group, made by `open_broker`.

    Methods about an attempt that return bool return False where it was no longer this worker's and nothing changed.
    """

    def __init__(self, redis: Redis, pipes: Redis, settings: Settings, group: str, worker_id: str) -> None:
        self.keys = Keys(settings.prefix)
        self._areas = [self.keys, *self.keys.of_tenants(settings.tenants)]
        self._area_of_stream = {stream: area for area in self._areas for stream in area.job_streams()}
        # Of each two tenants whose jobs wait, now one and now the other comes first.
        self._first_areas = cycle(range(len(self._areas)))
        self._redis = redis
        # A blocking read needs a connection of its own.
        self._reader = Pipe(pipes)
        self._carrier = Pipe(pipes)
        # A renewal that gets no answer has to be tried again within the lease.
        self._scripts = Scripts(self._carrier, min(COMMAND_SECONDS, settings.lease_seconds / 3))
        self._settings = settings
        self._limits = msgspec.json.encode(limits_of_settings(settings))
        self._group = group
        self._worker = worker_id
        # By stream, whether a new job is to go before one whose next attempt is due. See `lua/take.lua`.
        self._turns: dict[str, int] = {}
        self._paused: set[str] = set()
        self._served = list(self._area_of_stream)
        self.misplaced: list[str] = []
        """A sentence for each key that held a value of another type when `mend` looked."""
        self._looked_at: dict[str, bytes] = {}

    async def close(self) -> None:
        """Close the connections that are held all the time."""
        await self._reader.close()
        await self._carrier.close()

    @property
    def serves(self) -> bool:
        """Return whether jobs can be taken from any stream, as `mend` has found."""
        return bool(self._served)

    async def mend(self) -> None:
        """Look at the types of all keys of the group, and pass over the job streams that are none.

        Without the results stream nothing can be said, so that no job is taken. What is in the place of the group's own
        books is deleted.
        """
        looked_at = places(self._areas, self._group)
        expected = [word for place in looked_at for word in (place.type, int(place.is_book))]
        kinds = await self._scripts.call("mend", tuple(place.key for place in looked_at), *expected)
        found = {place.key: place.sentence(kind.decode()) for place, kind in zip(looked_at, kinds, strict=True) if kind}
        for sentence in found.values():
            if sentence not in self.misplaced:
                _log.warning(sentence)
        self.misplaced = list(found.values())
        served_before = self._served
        self._served = [
            stream for stream, area in self._area_of_stream.items() if not found.keys() & {stream, area.results}
        ]
        if again := set(self._served) - set(served_before):
            _log.info("jobs are taken again from %s", ", ".join(sorted(again)))
            await self._create_groups()

    async def ensure_groups(self) -> None:
        """Create the consumer group where it is missing, reading from the start so that nothing is passed over."""
        await self.mend()
        await self._create_groups()

    async def _create_groups(self) -> None:
        for stream in self._served:
            try:
                await self._redis.xgroup_create(stream, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    # --- taking jobs

    async def take(self, first_ranks: Sequence[int]) -> list[Entry]:
        """Take due and queued jobs without waiting, at most one per free slot.

        `first_ranks` holds for each free slot the rank (1..3) of the stream that it asks first.
        """
        first = next(self._first_areas)
        areas = [*self._areas[first:], *self._areas[:first]]
        ranked = [[area.jobs(priority) for area in areas] for priority in PRIORITIES]
        served = [stream for streams in ranked for stream in streams if stream in self._served]
        if not served:
            return []
        asked = []
        for slot, rank in enumerate(first_ranks):
            streams = [stream for stream in ranked[rank - 1] if stream in served] or served
            asked.append(served.index(streams[slot % len(streams)]) + 1)
        turns = [self._turns.get(stream, 0) for stream in served]
        arguments = (self._group, self._worker, RETRY_CONSUMER, DEAD_CONSUMER, self._limits, *turns, *asked)
        keys = (*self._with_due_times(served), *self._books_of_limits, self.keys.orders(self._group))
        parcels, turns, paused = await self._scripts.call("take", keys, *arguments)
        self._turns.update(zip(served, turns, strict=True))
        self._paused = {stream for stream, is_paused in zip(served, paused, strict=True) if is_paused}
        return _entries(parcels)

    async def wait(self) -> list[Entry]:
        """Wait up to a second for the next new job. Streams that get one in the same moment give one each."""
        streams = [stream for stream in self._served if stream not in self._paused]
        if not streams:
            await anyio.sleep(BLOCK_SECONDS)
            return []
        read = ("XREADGROUP", "GROUP", self._group, self._worker, "COUNT", 1, "BLOCK", _ms(BLOCK_SECONDS))
        new = [">"] * len(streams)
        [reply] = await self._reader.send([(*read, "STREAMS", *streams, *new)], BLOCK_SECONDS + COMMAND_SECONDS)
        if isinstance(reply, ResponseError):
            raise reply
        return [
            entry_from_fields(stream.decode(), entry_id.decode(), _paired(flat))
            for stream, entries in reply or ()
            for entry_id, flat in entries
        ]

    async def sweep(self, slots: int, running: Sequence[Attempt] = ()) -> list[Entry]:
        """Claim up to `slots` pending entries whose lease ran out, also those of this worker that are not `running`.

        Nothing is claimed before this worker has reached Redis for a lease without a break.
        """
        lease, forget = _ms(self._settings.lease_seconds), _ms(FORGET_IDLE_SECONDS)
        keys = (self.keys.workers(self._group), *self._served)
        return _entries(
            await self._scripts.call(
                *("sweep", keys, self._group, self._worker, lease, slots, forget, self.keys.worker("")),
                *(RETRY_CONSUMER, DEAD_CONSUMER, *(_place(one.entry) for one in running)),
            )
        )

    async def owned(self) -> list[tuple[str, str]]:
        """Return stream and entry id of this worker's pending entries."""
        found = []
        for stream in self._served:
            pending = await self._redis.xpending_range(stream, self._group, "-", "+", 1000, self._worker)
            found += [(stream, entry["message_id"].decode()) for entry in pending]
        return found

    async def read_owned(self, stream: str, entry_id: str) -> Entry:
        """Return the content of a pending entry of this worker."""
        found = await self._redis.xrange(stream, entry_id, entry_id)
        return entry_from_fields(stream, entry_id, found[0][1] if found else None)

    async def identify(self, attempt: Attempt) -> Attempt:
        """Return an attempt at an entry without payload, with the ids of its execution where that had begun before."""
        answers = self._answers(attempt.entry.stream)
        known = await cast(Awaitable["bytes | None"], self._redis.hget(answers, _place(attempt.entry)))
        if known is None:
            return attempt
        execution_id, task_id, subtask_id = msgspec.json.decode(known, type=tuple[str, str, str])
        return replace(attempt, execution_id=execution_id, task_id=task_id or None, subtask_id=subtask_id or None)

    # --- state changes

    async def start(
        self, attempt: Attempt, event_around_attempt: tuple[bytes, bytes], *, silently: bool = False
    ) -> Started:
        """Begin the attempt, and publish that unless `silently`."""
        area = self.area(attempt.entry.stream)
        of_earlier = (area.envelope(attempt.known_as), area.result(attempt.known_as), area.notices)
        stream, task_type = attempt.entry.stream, "" if silently else attempt.task_type
        of_holding = (self.keys.orders(self._group), self._due_times(stream), *self._books_of_limits)
        keys = (*self._keys(attempt), self._cancel(attempt), self._answers(stream), *of_earlier, *of_holding)
        kind = (int(not silently), task_type, RETRY_CONSUMER)
        subjects = [of_type(task_type)] if task_type else []
        subjects += [of_tenant(area.tenant)] if area.tenant and not silently else []
        more = (*event_around_attempt, self._settings.max_crashes, *kind, self._limits, *subjects)
        verdict, number, crashes, releases, written, replays = await self._scripts.call(
            "start", keys, *self._arguments(attempt), *more
        )
        return Started(verdict.decode(), number, crashes, releases, _paths(written), replays)

    async def progress(self, attempt: Attempt, *events: bytes) -> bool:
        return bool(await self._scripts.call("progress", self._keys(attempt), *self._arguments(attempt), *events))

    async def wrote(self, attempt: Attempt, path: str) -> bool:
        """Note a path that the attempt stages beside its target, for whoever answers if this worker dies."""
        return bool(await self._scripts.call("wrote", self._keys(attempt), *self._arguments(attempt), path))

    async def finish(self, attempt: Attempt, status: str, event: bytes, result: bytes) -> bool:
        outcome: Outcome = "cancelled" if status == "CANCELLED" else "success"
        keys = self._keys_of_answer(attempt, outcome)
        kept = (self._settings.result_ttl_after(outcome), self._settings.retention_after(outcome))
        more = (event, result, *kept, attempt.task_type, *self._most_kept(outcome))
        return bool(await self._scripts.call("finish", keys, *self._arguments(attempt), status, *more))

    async def bury(self, attempt: Attempt, event: bytes, result: bytes) -> bool:
        keys = self._keys_of_answer(attempt, "failure")
        kept = (
            DEAD_CONSUMER,
            self._settings.retention_after("failure") + OUTLAST_SECONDS,
            self._settings.max_envelope_bytes + BESIDE_BYTES,
            attempt.task_type,
            *self._most_kept("failure"),
        )
        more = (event, result, self._settings.result_ttl_after("failure"), *kept)
        return bool(await self._scripts.call("bury", keys, *self._arguments(attempt), *more))

    async def lost(self, attempt: Attempt, event: bytes, result: bytes) -> list[str] | None:
        """Answer an entry whose payload is gone. Returns the paths that its attempts staged, as in `Started.written`.

        None where another worker has answered, or it was sent again.
        """
        stream = attempt.entry.stream
        area = self.area(stream)
        books = (self._answers(stream), area.ended("failure"), self.keys.running(self._group))
        keys = (*self._keys(attempt), area.result(attempt.known_as), *books, area.envelope(attempt.known_as))
        kept = (self._settings.result_ttl_after("failure"), self._settings.retention_after("failure"))
        more = (event, result, *kept, *self._most_kept("failure"))
        written = await self._scripts.call("lost", keys, *self._arguments(attempt), *more)
        return None if written is None else _paths(written)

    async def retry(self, attempt: Attempt, event: bytes, delay_seconds: float, *, counts: bool = True) -> bool:
        """Let an attempt be followed by another one. It is used up where it `counts`."""
        books = (self._due_times(attempt.entry.stream), self._cancel(attempt), self.keys.running(self._group))
        keys = (*self._keys(attempt), *books)
        more = (event, _ms(delay_seconds), RETRY_CONSUMER, "" if counts else "releases")
        return bool(await self._scripts.call("retry", keys, *self._arguments(attempt), *more))

    async def release(self, attempt: Attempt, counter: Literal["releases", "crashes"]) -> bool:
        """Give a running attempt back, for another worker."""
        record = self._record(attempt)
        return await self._release(attempt.entry.stream, attempt.entry.entry_id, record, attempt.run, counter)

    async def give_back(self, stream: str, entry_id: str) -> bool:
        """Give back an entry that was taken and not started."""
        return await self._release(stream, entry_id, self.area(stream).execution(""), "", "releases")

    async def renew(self, attempts: Sequence[Attempt]) -> list[Lease]:
        """Renew the leases of `attempts`, and note that this worker is there."""
        keys = [key for one in attempts for key in (one.entry.stream, self._cancel(one))]
        entry_ids = [one.entry.entry_id for one in attempts]
        arguments = (self._group, self._worker, _ms(self._settings.lease_seconds), *entry_ids)
        renewed = await self._scripts.call("renew", (self.keys.workers(self._group), *keys), *arguments)
        return [Lease(number) for number in renewed]

    async def disown(self, attempt: Attempt) -> None:
        """Note that the attempt ended because its lease was lost, not because this worker died."""
        keys = (attempt.entry.stream, self._record(attempt))
        await self._scripts.call("disown", keys, self._group, self._worker, attempt.entry.entry_id, attempt.run)

    async def withdraw(self, execution_id: str, area: Keys | None = None) -> Entry | None:
        """Take an execution that waits for its next attempt and is to be cancelled, due or not.

        `area` holds the names of its tenant.
        """
        area = area or self.keys
        streams = self._with_due_times([each for each in area.job_streams() if each in self._served])
        keys = (area.execution(execution_id), area.cancel(execution_id), *streams)
        parcel = await self._scripts.call("withdraw", keys, self._group, self._worker, RETRY_CONSUMER)
        return parcel and entry_from_parcel(parcel)

    async def is_first_to_look(self, execution_id: str, area: Keys | None = None) -> bool:
        """Return whether this worker is to look in the queue for an execution that is to be cancelled."""
        area = area or self.keys
        if await self._redis.exists(area.execution(execution_id)):  # it has begun, so it is not queued
            return False
        # Every worker hears of the cancel; the first to change the mark's value walks through the streams for all.
        try:
            wish = await self._redis.set(area.cancel(execution_id), _LOOKED_FOR, xx=True, get=True, keepttl=True)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return True  # whatever it holds, it is there
        return wish not in (None, _LOOKED_FOR)

    async def queued(self) -> AsyncIterator[Entry]:
        """Iterate over the entries that nobody works on now, whether new, given back or waiting for a retry."""
        async for page in self._new_by_page(self._served):
            for entry in page:
                yield entry
        for stream in self._served:
            due_times = self._due_times(stream)
            for entry_id in await self._redis.zrangebyscore(due_times, "-inf", "+inf", 0, MOST_GIVEN_BACK):
                yield await self.read_owned(stream, entry_id.decode())

    async def _new_by_page(self, streams: Sequence[str]) -> AsyncIterator[list[Entry]]:
        """Iterate over the entries that nobody has taken."""
        for stream in streams:
            after = await last_delivered(self._redis, stream, self._group)
            while found := await self._redis.xrange(stream, f"({after}", "+", PAGE):
                yield [entry_from_fields(stream, entry_id.decode(), fields) for entry_id, fields in found]
                after = found[-1][0].decode()

    async def cancel_queued(self, attempt: Attempt, event: bytes, result: bytes) -> bool:
        """End an execution that nobody has begun. Returns False where somebody has begun it meanwhile."""
        keys = (*self._keys_of_answer(attempt, "cancelled"), self._due_times(attempt.entry.stream))
        kept = (self._settings.result_ttl_after("cancelled"), self._settings.retention_after("cancelled"))
        listed, whole = self._most_kept("cancelled")
        more = (event, result, *kept, attempt.task_type, listed, RETRY_CONSUMER, whole)
        return bool(await self._scripts.call("cancel_queued", keys, *self._arguments(attempt), *more))

    # --- the dead

    async def replay(self, attempt: Attempt, event: bytes) -> Replay:
        """Let a buried execution start anew, on any worker."""
        stream = attempt.entry.stream
        of_execution = (self._cancel(attempt), self.area(stream).result(attempt.known_as))
        listed = self.area(stream).ended("failure")
        keys = (*self._keys(attempt), self._due_times(stream), *of_execution, self._answers(stream), listed)
        more = (event, DEAD_CONSUMER, RETRY_CONSUMER)
        replay: Replay = (await self._scripts.call("replay", keys, *self._arguments(attempt), *more)).decode()
        return replay

    async def purge(self, entry: Entry) -> bool:
        """Forget a buried entry. Returns False where it is buried no more."""
        arguments = (self._group, entry.entry_id, DEAD_CONSUMER)
        return bool(await self._scripts.call("purge", (entry.stream,), *arguments))

    # --- the worker itself

    async def heartbeat(self, content: bytes) -> None:
        """Write this worker's heartbeat, which expires with the lease."""
        await self._redis.set(self.keys.worker(self._worker), content, px=_ms(self._settings.lease_seconds))

    async def is_to_drain(self) -> bool:
        """Return whether an operator wants this worker to stop."""
        orders = self.keys.orders(self._group)
        return await cast(Awaitable["bytes | None"], self._redis.hget(orders, f"{DRAIN}{self._worker}")) is not None

    # --- what operators want of all workers

    async def give_order(self, name: str) -> None:
        """Note an order, by a name of `broker/orders.py`."""
        await cast(Awaitable[int], self._redis.hset(self.keys.orders(self._group), name, str(await self._now())))

    async def order_limit(self, name: str, most: int | None) -> None:
        """Set a limit, by a name of `broker/limits.py`. None lifts the one that workers' settings may hold."""
        value = f"{'-' if most is None else most} {await self._now()}"
        await cast(Awaitable[int], self._redis.hset(self.keys.orders(self._group), f"{LIMIT}{name}", value))

    async def lift_limits(self, subject: str) -> bool:
        """Take back what was ordered for a subject, and return whether there was anything."""
        names = (f"{LIMIT}{RUNNING}{subject}", f"{LIMIT}{STARTS}{subject}")
        return bool(await cast(Awaitable[int], self._redis.hdel(self.keys.orders(self._group), *names)))

    async def hasten_one(self, execution_id: str) -> Literal["due", "held", "limited", "not waiting"]:
        """Let an execution that waits for its next attempt be due at once, unless a pause or a limit holds it up."""
        record = self.keys.execution(execution_id)
        found = await cast(Awaitable["list[bytes | None]"], self._redis.hmget(record, ["state", "stream", "entry"]))
        state, stream, entry = (each and each.decode() for each in found)
        if state != "retry" or not entry or stream not in self._area_of_stream:
            return "not waiting"
        due = await self._redis.zscore(self._due_times(stream), entry)
        if due is None:
            return "not waiting"
        if due >= NEVER_DUE:
            return "held" if due == NEVER_DUE else "limited"
        await self.hasten(stream, [entry])
        return "due"

    async def hasten_all(self) -> int:
        """Let all that wait for their next attempt be due at once, and return how many there are."""
        hastened = 0
        for stream in self._area_of_stream:
            due_times = self._due_times(stream)
            while waiting := await self._redis.zrangebyscore(
                due_times, f"({await self._now()}", f"({NEVER_DUE}", 0, PAGE
            ):
                await self.hasten(stream, [entry_id.decode() for entry_id in waiting])
                hastened += len(waiting)
        return hastened

    async def _now(self) -> int:
        """Return the time in ms by Redis' clock."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def lift_order(self, name: str) -> bool:
        """Take an order back, and return whether there was one. Jobs that waited for their type are due at once.

        Those whose type is still paused are held up again when a worker takes them.
        """
        lifted = bool(await cast(Awaitable[int], self._redis.hdel(self.keys.orders(self._group), name)))
        if name.startswith(PAUSE_TYPE):
            for stream in self._area_of_stream:
                due_times = self._due_times(stream)
                left = await self._redis.zcount(due_times, NEVER_DUE, NEVER_DUE)
                while left > 0:
                    held = await self._redis.zrangebyscore(due_times, NEVER_DUE, NEVER_DUE, 0, min(left, PAGE))
                    await self.hasten(stream, [entry_id.decode() for entry_id in held])
                    left -= len(held) or left
        return lifted

    async def hasten(self, stream: str, entry_ids: Sequence[str]) -> None:
        """Let entries that wait for their next attempt be due at once. Those that do not wait are passed over."""
        if entry_ids:
            due = dict.fromkeys(entry_ids, await self._now())
            await self._redis.zadd(self._due_times(stream), due, xx=True, lt=True)

    async def leave(self) -> None:
        """Remove this worker's heartbeat, and its consumers where they own nothing any more."""
        books = (self.keys.workers(self._group), self.keys.orders(self._group))
        keys = (self.keys.worker(self._worker), *books, *self._served)
        await self._scripts.call("leave", keys, self._group, self._worker)

    async def tidy(self) -> int:
        """Restore lost due times and settle some of the buried jobs past retention. Returns how many due times.

        However many jobs wait or are dead, a call looks at a page of them, and goes on only for what it finds to do.
        """
        missing = 0
        for stream in self._served:
            first = _FIRST
            while True:
                keys = (stream, self._due_times(stream))
                found, first = await self._scripts.call("restore", keys, self._group, RETRY_CONSUMER, first)
                missing += found
                if first == _FIRST:
                    break
            # The oldest entries are the likeliest to be past it; the others are looked at in turn.
            await self._settle_dead(stream, _FIRST)
            self._looked_at[stream] = await self._settle_dead(stream, self._looked_at.get(stream, _FIRST))
        await self._forget_workers()
        await self._forget_ended()
        return missing

    async def _settle_dead(self, stream: str, first: bytes) -> bytes:
        """Settle buried entries past retention from `first` on, until a page has none. Returns where to go on."""
        arguments = (self._group, DEAD_CONSUMER, _ms(self._settings.retention_after("failure")))
        settled = 1
        while settled:
            settled, first = await self._scripts.call("tidy", (stream,), *arguments, first)
        return first

    async def _forget_workers(self) -> None:
        """Remove what is kept of workers that did not come back."""
        workers = self.keys.workers(self._group)
        since = await self._now() - _ms(FORGET_WORKER_SECONDS)
        known = await cast(Awaitable["dict[bytes, bytes]"], self._redis.hgetall(workers))
        if gone := [name.decode() for name, seen in known.items() if int(seen.split()[0]) < since]:
            await cast(Awaitable[int], self._redis.hdel(workers, *gone))
            orders = [f"{DRAIN}{name}" for name in gone]
            await cast(Awaitable[int], self._redis.hdel(self.keys.orders(self._group), *orders))

    async def _forget_ended(self) -> None:
        """Remove those past retention from the lists of executions that ended, also where no more of them end."""
        now = await self._now()
        for area in self._areas:
            for outcome in OUTCOMES:
                index, since = area.ended(outcome), now - _ms(self._settings.retention_after(outcome))
                while old := await self._redis.zrangebyscore(index, "-inf", since, 0, MOST_FORGOTTEN):
                    await self._redis.zrem(index, *old)

    @asynccontextmanager
    async def cancellations(self) -> AsyncIterator[AsyncIterator[tuple[str, Keys]]]:
        """Yield an iterator over the executions that a web side wants cancelled, as it publishes their ids.

        Beside each id are the names of its tenant.

        Those that it published while nobody here listened come in between, found by a page of live jobs per second.
        """
        async with self._redis.pubsub() as pubsub:
            controls = {area.control: area for area in self._areas}
            await pubsub.subscribe(*controls)

            async def wishes() -> AsyncIterator[tuple[str, Keys]]:
                # After subscribing, so that nothing falls between.
                unheard: AsyncIterator[list[tuple[str, Keys]]] | None = self._marked()
                while True:
                    if unheard is not None:
                        marked = await anext(unheard, None)
                        for wish in marked or ():
                            yield wish
                        unheard = None if marked is None else unheard
                    # The time-out only bounds the wait for one message; the connection's health shows in between.
                    timeout = BLOCK_SECONDS * (30 if unheard is None else 1)
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout)
                    if message is not None:
                        area = controls[message["channel"].decode()]
                        yield message["data"].decode(errors="replace"), area

            yield wishes()

    async def _marked(self) -> AsyncIterator[list[tuple[str, Keys]]]:
        """Iterate by page over the jobs that run, wait or are queued, giving those that are to be cancelled."""
        for area in self._areas:
            async for execution_ids in self._live_by_page(area):
                marks = [area.cancel(each) for each in execution_ids]
                values = await self._redis.mget(marks) if marks else []
                yield [(each, area) for each, value in zip(execution_ids, values, strict=True) if value is not None]

    async def _live_by_page(self, area: Keys) -> AsyncIterator[list[str]]:
        cursor, answers = None, area.answers(self._group)
        while cursor != 0:
            cursor, begun = await cast(Awaitable[Any], self._redis.hscan(answers, cursor or 0, count=2 * PAGE))
            yield [msgspec.json.decode(ids, type=tuple[str, str, str])[0] for ids in begun.values()]
        async for page in self._new_by_page([each for each in area.job_streams() if each in self._served]):
            yield [known for entry in page if (known := Attempt.of(entry).execution_id) is not None]

    def area(self, stream: str) -> Keys:
        """Return the names of the tenant whose job stream this is."""
        return self._area_of_stream[stream]

    def _record(self, attempt: Attempt) -> str:
        return self.area(attempt.entry.stream).execution(attempt.record_name)

    def _cancel(self, attempt: Attempt) -> str:
        return self.area(attempt.entry.stream).cancel(attempt.known_as)

    def _keys(self, attempt: Attempt) -> tuple[str, ...]:
        return attempt.entry.stream, self._record(attempt), self.area(attempt.entry.stream).results

    def _most_kept(self, outcome: Outcome) -> tuple[int, int]:
        """Return how many the list of those that ended so keeps, and 1 where the others are forgotten altogether."""
        most = self._settings.most_kept_of.get(outcome)
        return (self._settings.ended_maxlen, 0) if most is None else (most, 1)

    def _keys_of_answer(self, attempt: Attempt, outcome: Outcome) -> tuple[str, ...]:
        stream = attempt.entry.stream
        area, known_as = self.area(stream), attempt.known_as
        of_execution = (area.result(known_as), self._cancel(attempt))
        books = (self._answers(stream), area.ended(outcome), area.envelope(known_as), self.keys.running(self._group))
        return (*self._keys(attempt), *of_execution, *books)

    @property
    def _books_of_limits(self) -> tuple[str, str]:
        return self.keys.running(self._group), self.keys.starts(self._group)

    @property
    def _lengths_of_results(self) -> str:
        if (
            not self._worker
        ):  # who speaks for none trims nothing: the workers' bound may be wider than the one set there
            return f"{sys.maxsize} {sys.maxsize}"
        kept = self._settings.results_maxlen
        return f"{kept} {max(kept, self._settings.results_unread_maxlen)}"

    async def slow_reader(self) -> SlowReader | None:
        """Return a consumer group for which a results stream keeps more than it is to keep."""
        for area in self._areas:
            if (reader := await slow_reader(self._redis, area, self._settings)) is not None:
                return reader
        return None

    async def gauges(self) -> tuple[list[Gauges], list[Gauges]]:
        """Return the figures of the job streams and of the results streams' readers."""
        return await gauges(self._redis, self._areas, self._group)

    def _due_times(self, stream: str) -> str:
        return self.area(stream).retries(stream, self._group)

    def _with_due_times(self, streams: Sequence[str]) -> tuple[str, ...]:
        return tuple(key for stream in streams for key in (stream, self._due_times(stream)))

    def _answers(self, stream: str) -> str:
        return self.area(stream).answers(self._group)

    def _arguments(self, attempt: Attempt) -> tuple[Any, ...]:
        """Return the arguments that all scripts about an attempt share, as `lua/prelude.lua` lists them."""
        named, area = attempt.execution_id is not None, self.area(attempt.entry.stream)
        return (
            self._group,
            self._worker,
            attempt.entry.entry_id,
            attempt.run,
            self._lengths_of_results,
            "execution_id" if named else "message_id",
            attempt.known_as,
            attempt.task_id or "",
            attempt.subtask_id or "",
            area.statuses(attempt.known_as) if named else "",
            area.all_statuses,
        )

    async def _release(self, stream: str, entry_id: str, record: str, run: str, counter: str) -> bool:
        keys = (stream, record, self._due_times(stream), self.keys.running(self._group))
        arguments = (self._group, self._worker, entry_id, run, RETRY_CONSUMER, counter)
        return bool(await self._scripts.call("release", keys, *arguments))


@asynccontextmanager
async def open_broker(settings: Settings, group: str, worker_id: str) -> AsyncIterator[Broker]:
    """Open a broker for the block. Redis need not be reachable yet."""
    async with connect(settings.redis_url) as redis, connect(settings.redis_url, socket_timeout=None) as pipes:
        broker = Broker(redis, pipes, settings, group, worker_id)
        try:
            yield broker
        finally:
            await broker.close()


def _entries(parcels: Iterable[list[bytes]]) -> list[Entry]:
    return [entry_from_parcel(parcel) for parcel in parcels]


def _paired(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry, which the server sends as names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _place(entry: Entry) -> str:
    """Return the name that keys and scripts use for an entry, `stream entry-id`."""
    return f"{entry.stream} {entry.entry_id}"


def _paths(written: bytes) -> list[str]:
    return msgspec.json.decode(written, type=list[str])


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
