"""Whatever workers, the web side and people do to a few executions, in any order: a small model beside a real server.

A paused worker needs no step of its own: every attempt that was ever made may act at any later time.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from sfworker.broker.broker import Attempt, Broker, Lease, open_broker
from sfworker.broker.entry import Entry
from sfworker.broker.keys import Keys
from sfworker.settings import OUTCOMES, Settings
from tests.broker.conftest import GROUP, LATER

WORKERS = ("w1", "w2", "w3")
MAX_CRASHES = 2
FINAL = {"SUCCESS", "FAILURE", "CANCELLED"}
STREAM, RETRIES = "sf:jobs", f"sf:retries:normal:{GROUP}"
_T = TypeVar("_T")

# What may happen; what should happen more often is there more often.
WEB_SIDE = ["append", "append_again", "cancel"]
ENDINGS = [
    "finish",
    "finish_cancelled",
    "bury",
    "bury",
    "retry",
    "wait",
    "release",
    "crash",
    "fall_silent",
    "lose",
    "go_on",
]
ACTS = [*ENDINGS, "start", "start", "start", "progress", "renew", "give_back"]
PEOPLE = ["replay", "replay", "replay", "purge", "let_time_pass", "lose_due_times"]

workers = st.sampled_from(WORKERS)
ages = st.sampled_from([0, 0, 0, 1, 2, 3])
"""Which execution, entry or attempt: 0 is the newest, 1 the one before it."""
web_side = st.tuples(st.just("web_side"), st.sampled_from(WEB_SIDE), ages, workers, st.booleans())
work = st.tuples(st.just("work"), workers, st.sampled_from(ENDINGS))
take = st.tuples(st.just("take"), workers, st.booleans())
act = st.tuples(st.just("act"), st.sampled_from(ACTS), ages)
people = st.tuples(st.just("people_and_time"), st.sampled_from(PEOPLE), ages, st.booleans())


def event(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@dataclass
class Execution:
    """What the record should hold, and what is true of the execution beside it."""

    state: Literal["new", "running", "retry", "dead", "done"] = "new"
    entry: str = ""
    run: str = ""
    status: str = ""
    """How it was answered, in state `done`."""
    attempt: int = 0
    crashes: int = 0
    releases: int = 0
    past: list[str] = field(default_factory=list)
    counts: bool = False
    """Whether the attempt that runs is one, and not begun only to be buried."""
    to_be_cancelled: bool = False
    lives: int = 1

    def note(self, outcome: str) -> None:
        if self.counts:
            self.past.append(outcome)
        self.counts = False


class Server:
    """Brokers on one event loop, which all examples share."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.redis: Any = Redis.from_url(url, decode_responses=True)
        values = Settings(redis_url=url, lease_seconds=60, max_crashes=MAX_CRASHES)
        self._contexts = {name: open_broker(values, GROUP, name) for name in WORKERS}
        self.brokers: dict[str, Broker] = {name: self.run(it.__aenter__()) for name, it in self._contexts.items()}

        self.new_first = dict.fromkeys(WORKERS, False)
        """By worker, whether it is a new job's turn before one that is due."""

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(coroutine)

    def empty(self) -> None:
        self.run(self.redis.flushall())
        self.run(self.brokers[WORKERS[0]].ensure_groups())
        self.run(self.redis.hset(Keys().workers(GROUP), mapping=dict.fromkeys(WORKERS, f"{LATER} 0")))

    def close(self) -> None:
        for context in self._contexts.values():
            self.run(context.__aexit__(None, None, None))
        self.run(self.redis.aclose())
        self._loop.close()


class Machine(RuleBasedStateMachine):
    """One rule with all the choices, because Hypothesis would leave out half of the rules in an example."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        server.empty()
        self.run, self.redis, self.brokers = server.run, server.redis, server.brokers
        self.new_first = server.new_first
        self.executions: dict[str, Execution] = {}
        self.owners: dict[str, str] = {}
        """By entry: queued, a worker, @retry, @dead, or gone."""
        self.about: dict[str, str] = {}
        """By entry: which execution it is."""
        self.due: set[str] = set()
        self.silent: set[str] = set()
        self.attempts: list[tuple[str, Attempt]] = []

    @rule(step=st.one_of(web_side, work, work, take, act, act, people, people))
    def anything(self, step: tuple[Any, ...]) -> None:
        name, *choices = step
        getattr(self, name)(*choices)

    def web_side(self, step: str, age: int, worker: str, heard: bool) -> None:
        if step == "cancel" and self.executions:
            self._cancel(age, worker if heard else None)
        elif step == "append_again" and self.executions:
            self._append(age)
        else:
            self._append_new()

    def work(self, worker: str, ending: str) -> None:
        """What a worker does with a job where nothing comes in between."""
        if not self.due and "queued" not in self.owners.values():
            self._append_new()
        self._take(worker)
        self.act("start", 0)
        self.act(ending, 0)

    def take(self, worker: str, swept: bool) -> None:
        if swept:
            self._sweep(worker)
        else:
            self._take(worker)

    def act(self, step: str, age: int) -> None:
        """What an attempt may do, however late."""
        if not self.attempts:
            return
        worker, attempt = self.attempts[-1 - age % len(self.attempts)]
        match step:
            case "finish":
                self._finish(worker, attempt, "SUCCESS")
            case "finish_cancelled":
                self._finish(worker, attempt, "CANCELLED")
            case "retry":
                self._retry(worker, attempt, 0)
            case "wait":
                self._retry(worker, attempt, 3600)
            case "release":
                self._release(worker, attempt, "releases")
            case "crash":
                self._release(worker, attempt, "crashes")
            case "go_on":
                pass
            case _:
                getattr(self, f"_{step}")(worker, attempt)

    def people_and_time(self, step: str, age: int, of_any: bool) -> None:
        dead = [entry_id for entry_id, owner in self.owners.items() if owner == "@dead"]
        entry_ids = list(self.owners) if of_any or not dead else dead
        if step not in {"replay", "purge"}:
            getattr(self, f"_{step}")()
        elif entry_ids:
            getattr(self, f"_{step}")(entry_ids[-1 - age % len(entry_ids)])

    # --- what is always so

    @invariant()
    def promises(self) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xrange(STREAM)
        pipeline.xpending_range(STREAM, GROUP, "-", "+", 1000)
        pipeline.zrange(RETRIES, 0, -1)
        pipeline.xrange("sf:results")
        pipeline.zunion([Keys().ended(outcome) for outcome in OUTCOMES])
        for name in self.executions:
            pipeline.hgetall(Keys().execution(name))
            pipeline.ttl(Keys().execution(name))
            pipeline.exists(Keys().cancel(name))
            pipeline.exists(Keys().result(name))
        entries, pending, waiting, said, listed, *rest = self.run(pipeline.execute())
        self._every_entry_has_one_owner({entry_id for entry_id, _ in entries}, pending, waiting)
        for number, execution in enumerate(self.executions.values()):
            record, ttl, cancel, result = rest[4 * number : 4 * number + 4]
            self._the_record_is_right(execution, record)
            assert (ttl > 0) == (execution.state in {"done", "dead"})
            assert cancel == execution.to_be_cancelled
            assert result == (execution.state in {"done", "dead"})
        self._each_life_has_one_answer_and_that_is_the_last_word([fields for _, fields in said])
        ended = {name for name, execution in self.executions.items() if execution.state in {"done", "dead"}}
        assert sorted(json.loads(facts)[0] for facts in listed) == sorted(ended)

    def _every_entry_has_one_owner(self, there: set[str], pending: list[dict[str, Any]], waiting: list[str]) -> None:
        found = {entry["message_id"]: entry["consumer"] for entry in pending}
        for entry_id, owner in self.owners.items():
            assert (entry_id in there) == (owner != "gone")
            assert found.get(entry_id) == (None if owner in {"queued", "gone"} else owner)
        assert set(waiting) == {entry_id for entry_id, owner in self.owners.items() if owner == "@retry"}

    def _the_record_is_right(self, execution: Execution, record: dict[str, str]) -> None:
        if execution.state == "new":
            assert record == {}
            return
        if execution.state == "done":
            answered = {"status": execution.status, "answered": f"{STREAM} {execution.entry}"}
            assert record == {"group": GROUP, "run": execution.run, "state": "done", **answered}
            return
        counters = tuple(int(record[counter]) for counter in ("attempt", "crashes", "releases"))
        assert counters == (execution.attempt, execution.crashes, execution.releases)
        assert (record["state"], record["entry"]) == (execution.state, execution.entry)
        kept = [json.loads(record[f"past:{n}"]) for n in range(1, int(record.get("ended", 0)) + 1)]
        assert [past["outcome"] for past in kept] == execution.past

    def _each_life_has_one_answer_and_that_is_the_last_word(self, said: list[dict[str, str]]) -> None:
        ended = dict.fromkeys(self.executions, False)
        lives = dict.fromkeys(self.executions, 1)
        announced = ""  # a result, whose final event comes next
        for fields in said:
            name, status = fields["execution_id"], fields["status"]
            if fields["kind"] == "result":
                assert not ended[name]
                assert announced == ""
                announced = f"{name} {status}"
                continue
            if "task_replayed" in fields["payload"]:
                assert ended[name]
                ended[name] = False
                lives[name] += 1
            assert not ended[name]
            assert announced == (f"{name} {status}" if status in FINAL else "")
            ended[name], announced = status in FINAL, ""
        assert announced == ""
        for name, execution in self.executions.items():
            assert ended[name] == (execution.state in {"done", "dead"})
            assert lives[name] == execution.lives

    # --- the web side

    def _append_new(self) -> None:
        self.executions[f"e-{len(self.executions)}"] = Execution()
        self._append(0)

    def _append(self, age: int) -> None:
        execution_id = list(self.executions)[-1 - age % len(self.executions)]
        envelope = json.dumps({"execution_id": execution_id, "task_id": "t", "subtask_id": "s"})
        entry_id = self.run(self.redis.xadd(STREAM, {"envelope": envelope}))
        self.owners[entry_id], self.about[entry_id] = "queued", execution_id

    def _cancel(self, age: int, heard_by: str | None) -> None:
        execution_id = list(self.executions)[-1 - age % len(self.executions)]
        execution = self.executions[execution_id]
        self.run(self.redis.set(Keys().cancel(execution_id), "1"))
        execution.to_be_cancelled = True
        if heard_by is None:
            return
        taken = self.run(self.brokers[heard_by].withdraw(execution_id))
        if execution.state in {"done", "dead"}:
            execution.to_be_cancelled = False
        waits = execution.entry and self.owners[execution.entry] == "@retry"
        assert (taken and taken.entry_id) == (execution.entry if waits else None)
        if taken:
            self._taken(heard_by, taken)
        elif execution.state == "new":
            self._cancel_queued(heard_by, execution_id, execution)

    def _cancel_queued(self, worker: str, execution_id: str, execution: Execution) -> None:
        broker = self.brokers[worker]
        assert self.run(broker.is_first_to_look(execution_id))
        assert not self.run(broker.is_first_to_look(execution_id))
        for entry_id in [each for each, owner in self.owners.items() if owner == "queued"]:
            if self.about[entry_id] == execution_id:
                [(_, fields)] = self.run(self.redis.xrange(STREAM, entry_id, entry_id))
                attempt = Attempt.of(Entry(STREAM, entry_id, fields["envelope"].encode()))
                first = execution.state == "new"
                assert self.run(broker.cancel_queued(attempt, event(), b"{}")) == first
                if first:
                    execution.state, execution.entry, execution.run = "done", entry_id, attempt.run
                    execution.status = "CANCELLED"
                    execution.to_be_cancelled = False
                    self._own(entry_id, "gone")

    # --- workers

    def _take(self, worker: str) -> None:
        queued = [entry_id for entry_id, owner in self.owners.items() if owner == "queued"]
        kinds = [self.due, set(queued[:1])]
        if self.new_first[worker]:
            kinds.reverse()
        expected = kinds[0] or kinds[1]
        if kinds[0]:
            self.new_first[worker] = not self.new_first[worker]
        taken = self.run(self.brokers[worker].take([2]))
        assert len(taken) == bool(expected)
        for entry in taken:
            assert entry.entry_id in expected
            self._taken(worker, entry)

    def _sweep(self, worker: str) -> None:
        taken = self.run(self.brokers[worker].sweep(10))
        assert {entry.entry_id for entry in taken} == self.silent
        for entry in taken:
            self._taken(worker, entry)

    def _fall_silent(self, worker: str, attempt: Attempt) -> None:
        """It dies, or is paused or cut off for longer than its lease."""
        entry_id = attempt.entry.entry_id
        if self.owners[entry_id] == worker:
            self.run(self.redis.xclaim(STREAM, GROUP, worker, 0, [entry_id], idle=100_000, justid=True))
            self.silent.add(entry_id)

    def _lose(self, worker: str, attempt: Attempt) -> None:
        """The next worker takes over what it is silent about, and has not begun it yet."""
        self._fall_silent(worker, attempt)
        self._sweep(WORKERS[WORKERS.index(worker) - 1])

    def _give_back(self, worker: str, attempt: Attempt) -> None:
        execution, entry_id = self._of(attempt), attempt.entry.entry_id
        if (execution.entry, execution.state) == (entry_id, "running"):
            return  # only what was not begun is given back
        owned = self.owners[entry_id] == worker
        assert self.run(self.brokers[worker].give_back(STREAM, entry_id)) == owned
        if owned:
            self._wait_for_next(entry_id)

    def _start(self, worker: str, attempt: Attempt) -> None:
        expected = self._verdict(worker, attempt)
        around = (b'{"stage":"task_started","attempt":', b"}")
        started = self.run(self.brokers[worker].start(attempt, around))
        assert started.verdict == expected
        if expected not in {"lost", "duplicate"}:
            execution = self._of(attempt)
            counters = (execution.attempt, execution.crashes, execution.releases)
            assert (started.attempt, started.crashes, started.releases) == counters

    def _progress(self, worker: str, attempt: Attempt) -> None:
        said = self.run(self.brokers[worker].progress(attempt, event(stage="progress")))
        assert said == self._runs(worker, attempt)

    def _renew(self, worker: str, attempt: Attempt) -> None:
        expected = Lease.LOST
        if self.owners[attempt.entry.entry_id] == worker:
            expected = Lease.TO_BE_CANCELLED if self._of(attempt).to_be_cancelled else Lease.HELD
            self.silent.discard(attempt.entry.entry_id)
        assert self.run(self.brokers[worker].renew([attempt])) == [expected]

    def _finish(self, worker: str, attempt: Attempt, status: str) -> None:
        execution = self._of(attempt)
        landed = self.run(self.brokers[worker].finish(attempt, status, event(), b"{}"))
        if self._runs(worker, attempt):
            execution.state, execution.to_be_cancelled = "done", False
            execution.status = status
            self._own(attempt.entry.entry_id, "gone")
        assert landed == ((execution.run, execution.state) == (attempt.run, "done"))

    def _bury(self, worker: str, attempt: Attempt) -> None:
        execution = self._of(attempt)
        landed = self.run(self.brokers[worker].bury(attempt, event(error_type="E"), b"{}"))
        if self._runs(worker, attempt):
            execution.state, execution.to_be_cancelled = "dead", False
            execution.note("failed")
            self._own(attempt.entry.entry_id, "@dead")
        assert landed == ((execution.run, execution.state) == (attempt.run, "dead"))

    def _retry(self, worker: str, attempt: Attempt, delay: int) -> None:
        execution = self._of(attempt)
        landed = self.run(self.brokers[worker].retry(attempt, event(), delay))
        if self._runs(worker, attempt):
            execution.state = "retry"
            execution.note("retrying")
            self._wait_for_next(attempt.entry.entry_id, due=not delay or execution.to_be_cancelled)
        assert landed == ((execution.run, execution.state) == (attempt.run, "retry"))

    def _release(self, worker: str, attempt: Attempt, counter: Literal["releases", "crashes"]) -> None:
        execution, runs = self._of(attempt), self._runs(worker, attempt)
        assert self.run(self.brokers[worker].release(attempt, counter)) == runs
        if runs:
            execution.state = "retry"
            execution.releases += counter == "releases"
            execution.crashes += counter == "crashes"
            execution.note("released" if counter == "releases" else "crashed")
            self._wait_for_next(attempt.entry.entry_id)

    # --- people and time

    def _replay(self, entry_id: str) -> None:
        attempt = Attempt(Entry(STREAM, entry_id, b""), "", self.about[entry_id], "t", "s")
        outcome = self.run(self.brokers[WORKERS[0]].replay(attempt, event(stage="task_replayed")))
        assert outcome == ("replayed" if self.owners[entry_id] == "@dead" else "not dead")
        if outcome == "replayed":
            execution = self._of(attempt)
            execution.state, execution.run, execution.to_be_cancelled = "retry", "", False
            execution.attempt = execution.crashes = execution.releases = 0
            execution.lives += 1
            self._wait_for_next(entry_id)

    def _purge(self, entry_id: str) -> None:
        purged = self.run(self.brokers[WORKERS[0]].purge(Entry(STREAM, entry_id, b"")))
        assert purged == (self.owners[entry_id] == "@dead")
        if purged:
            self._own(entry_id, "gone")

    def _let_time_pass(self) -> None:
        for member in self.run(self.redis.zrange(RETRIES, 0, -1)):
            self.run(self.redis.zadd(RETRIES, {member: 0}))
            self.due.add(member)

    def _lose_due_times(self) -> None:
        waiting = {entry_id for entry_id, owner in self.owners.items() if owner == "@retry"}
        self.run(self.redis.delete(RETRIES))
        assert self.run(self.brokers[WORKERS[0]].tidy()) == len(waiting)
        self.due |= waiting

    # --- the model's own steps

    def _of(self, attempt: Attempt) -> Execution:
        return self.executions[self.about[attempt.entry.entry_id]]

    def _own(self, entry_id: str, owner: str) -> None:
        self.owners[entry_id] = owner
        self.silent.discard(entry_id)
        self.due.discard(entry_id)

    def _wait_for_next(self, entry_id: str, *, due: bool = True) -> None:
        self._own(entry_id, "@retry")
        if due:
            self.due.add(entry_id)

    def _taken(self, worker: str, entry: Entry) -> None:
        self._own(entry.entry_id, worker)
        run = secrets.token_hex(8)
        self.attempts.append((worker, Attempt(entry, run, self.about[entry.entry_id], "t", "s")))

    def _runs(self, worker: str, attempt: Attempt) -> bool:
        execution = self._of(attempt)
        owned = self.owners[attempt.entry.entry_id] == worker
        return owned and (execution.run, execution.state) == (attempt.run, "running")

    def _verdict(self, worker: str, attempt: Attempt) -> str:
        """Begin the attempt in the model, and say what `start.lua` should."""
        execution, entry_id = self._of(attempt), attempt.entry.entry_id
        repeated = execution.run == attempt.run
        if self.owners[entry_id] != worker or (repeated and execution.state != "running"):
            return "lost"
        if execution.entry not in {"", entry_id}:
            self._own(entry_id, "gone")
            return "duplicate"
        if not repeated:
            if execution.state == "running":
                execution.crashes += 1
                execution.note("crashed")
            execution.counts = execution.crashes < MAX_CRASHES
            execution.attempt += execution.counts
            execution.state, execution.entry, execution.run = "running", entry_id, attempt.run
        if execution.to_be_cancelled:
            return "cancelled"
        return "run" if execution.crashes < MAX_CRASHES else "poison"


def test_any_order_of_steps_keeps_every_promise(redis_url: str) -> None:
    server = Server(redis_url)
    examples = settings(
        max_examples=40,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(lambda: Machine(server), settings=examples)  # type: ignore[no-untyped-call, unused-ignore]
    finally:
        server.close()
