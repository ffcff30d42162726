"""Envelopes that are made of parameter structs, and flows of them; on real workers in `integration/test_flows.py`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from msgspec import convert
from redis.asyncio import Redis

from sfworker import client as client_module
from sfworker import tasks
from sfworker.broker.connection import connect
from sfworker.catalog import TaskParams, all_task_types, load_modules
from sfworker.catalog.job import accept
from sfworker.client import Client
from sfworker.errors import EnvelopeError, FlowError, ParameterValidationError
from sfworker.flow import Job, Options, Step, plan
from sfworker.settings import Settings
from sfworker.tasks import ColumnRef, Hello, Psi, SsLr
from tests.catalog.examples import HEU, SPU, TASKS

JOB = Job(parties=["alice", "bob"], spu="SEMI2K", task_id="flow-1")
PSI = Psi(
    keys={"alice": ["id"], "bob": ["id"]},
    input_paths={"alice": "a.csv", "bob": "b.csv"},
    output_paths={"alice": "out.csv", "bob": "out.csv"},
    receiver="alice",
)


class OwnParams(TaskParams, tag="own", frozen=True, kw_only=True):
    """A web side's own task type, which it need not register."""

    times: int = 1


# --- envelopes


def test_every_task_type_has_a_short_name_and_each_its_struct() -> None:
    load_modules([])
    ours = {each.name: each.params for each in all_task_types() if each.params.__module__.startswith("sfworker.")}
    short = {name: getattr(tasks, name) for name in tasks.__all__ if issubclass(getattr(tasks, name), TaskParams)}
    assert short == {"".join(map(str.capitalize, name.split("_"))): kind for name, kind in ours.items()}
    assert tasks.Psi is ours["psi"]


@pytest.mark.parametrize("name", TASKS)
def test_a_worker_takes_every_struct_as_it_was_meant(name: str) -> None:
    load_modules([])
    [kind] = [each.params for each in all_task_types() if each.name == name]
    task = convert(TASKS[name], kind)
    job = Job(parties=["alice", "bob"], spu=SPU, heu=HEU, options=Options(max_retries=0, threads=2))
    envelope = job.envelope(task)
    taken = accept(json.dumps(envelope).encode(), Settings(data_roots=["/data"]), now=0.0)
    assert convert(taken.envelope.task_config, kind) == task
    assert (taken.envelope.options, taken.parties, taken.warnings) == (job.options, ["alice", "bob"], [])


def test_only_what_is_said_is_in_the_envelope() -> None:
    assert JOB.envelope(PSI, execution_id="e-1") == {
        "task_id": "flow-1",
        "subtask_id": "psi",
        "execution_id": "e-1",
        "sf_init_config": {"parties": ["alice", "bob"]},
        "spu_config": {"cluster_def": {"runtime_config": {"protocol": "SEMI2K"}}},
        "task_config": {
            "task_type": "psi",
            "keys": {"alice": ["id"], "bob": ["id"]},
            "input_paths": {"alice": "a.csv", "bob": "b.csv"},
            "output_paths": {"alice": "out.csv", "bob": "out.csv"},
            "receiver": "alice",
        },
    }
    bare = Job().envelope(OwnParams(times=2))
    assert bare["task_config"] == {"task_type": "own", "times": 2}
    assert bare.keys() == {"task_id", "subtask_id", "execution_id", "sf_init_config", "task_config"}
    again = Job().envelope(OwnParams(times=2))
    assert (bare["execution_id"] == again["execution_id"], bare["task_id"] == again["task_id"]) == (False, False)


@pytest.mark.parametrize(
    ("job", "task", "sentence"),
    [
        (JOB, Psi(keys={}, input_paths={}, output_paths={}, receiver="carol"), "task_config.receiver: names a party"),
        (JOB, Hello(name=3), "task_config.name: expected `str`"),  # type: ignore[arg-type]
        (Job(spu={"cluster_def": {}}), PSI, "spu_config.cluster_def.runtime_config: required and missing"),
        (Job(options=Options(max_retries=-1)), PSI, "options.max_retries: "),
        (Job(parties=["a/b"]), PSI, "sf_init_config.parties"),
        (
            Job(sf_init_config={"cluster_config": {"parties": {"alice": {}, "carol": {}}, "self_party": "alice"}}),
            PSI,
            "task_config.keys: names a party",
        ),
    ],
)
def test_what_is_wrong_is_named_before_it_is_sent(job: Job, task: TaskParams, sentence: str) -> None:
    with pytest.raises(ParameterValidationError, match=sentence):
        job.envelope(task)


# --- plans


def test_steps_are_known_by_name_and_follow_each_other_unless_they_say_otherwise() -> None:
    steps: list[TaskParams | Step] = [
        Hello(),
        Hello(),
        Step(PSI, name="join", depends_on=["hello"], execution_id="mine"),
        Step(PSI),
        OwnParams(),
    ]
    planned = plan(JOB, steps)
    assert [(step.name, step.execution_id, step.depends_on) for step in planned] == [
        ("hello", "flow-1-hello", ()),
        ("hello-2", "flow-1-hello-2", ("hello",)),
        ("join", "mine", ("hello",)),
        ("psi-2", "flow-1-psi-2", ("join",)),
        ("own", "flow-1-own", ("psi-2",)),
    ]
    assert [step.envelope["subtask_id"] for step in planned] == [step.name for step in planned]
    nameless = Job()
    first, second = plan(nameless, [Hello(), Hello(name="2")]), plan(nameless, [Hello(name="3")])
    assert len({each.envelope["task_id"] for each in first}) == 1
    assert first[0].execution_id != second[0].execution_id


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([PSI, Step(Hello(), name="psi")], "step psi: another step has this name"),
        ([Step(Hello(), depends_on=["psi"]), PSI], "step hello: depends_on: no step before it is named 'psi'"),
        ([PSI, Step(Hello(), execution_id="flow-1-psi")], "step hello: execution_id: another step has it"),
        ([Hello(), Step(Hello(name=3), name="b")], "step b: task_config.name: "),  # type: ignore[arg-type]
        ([Step(PSI, name="a\nb")], "step a\nb: subtask_id: "),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(steps: list[TaskParams | Step], sentence: str) -> None:
    with pytest.raises(ParameterValidationError, match=sentence):
        plan(JOB, steps)


# --- sending; the worker's part is written by hand


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = connect(redis_url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, job=JOB) as client:
        yield client


async def sent(redis: Redis, count: int) -> list[dict[str, Any]]:
    """The first envelopes on the job stream, waited for."""
    with anyio.fail_after(10):
        while len(entries := await redis.xrange("sf:jobs")) < count:  # noqa: ASYNC110 - a stream sets no event
            await anyio.sleep(0.01)
    return [{"entry_id": entry_id} | json.loads(fields[b"envelope"]) for entry_id, fields in entries]


async def answer(redis: Redis, execution_id: str, *, heard: bool = True, **result: Any) -> None:
    payload = json.dumps({"status": "success", "result": {"of": execution_id}} | result)
    await redis.set(f"sf:result:{execution_id}", payload)
    if heard:
        await redis.xadd("sf:results", {"kind": "result", "execution_id": execution_id, "payload": payload})


async def notice(redis: Redis, entry: dict[str, Any], **said: Any) -> None:
    fields: dict[Any, Any] = {
        "execution_id": entry["execution_id"],
        "entry_id": entry["entry_id"],
        "payload": json.dumps(said),
    }
    await redis.xadd("sf:notices", fields)


async def test_a_struct_is_submitted_as_a_new_execution_with_what_the_client_knows(
    client: Client, redis: Redis
) -> None:
    submissions = [await client.submit(PSI), await client.submit(PSI)]
    envelopes = await sent(redis, 2)
    assert [each["execution_id"] for each in envelopes] == [each.execution_id for each in submissions]
    assert envelopes[0]["spu_config"]["cluster_def"]["runtime_config"] == {"protocol": "SEMI2K"}
    assert len({each.execution_id for each in submissions}) == 2


async def test_steps_that_need_not_wait_run_at_once_and_results_are_in_the_steps_order(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(client_module, "BLOCK_MILLISECONDS", 100)
    steps: list[TaskParams | Step] = [Hello()]
    steps += [Step(Hello(), "a"), Step(Hello(), "b", ["hello"]), Step(Hello(), "last", ["a", "b"])]
    results: dict[str, Any] = {}

    async def run() -> None:
        results.update(await client.run_flow(steps))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        assert len(await sent(redis, 1)) == 1
        await answer(redis, "flow-1-hello")
        assert [each["subtask_id"] for each in await sent(redis, 3)] == ["hello", "a", "b"]
        await answer(redis, "flow-1-b")
        await answer(redis, "flow-1-a", heard=False)  # its entry was trimmed before it was read
        assert [each["subtask_id"] for each in await sent(redis, 4)][3] == "last"
        await answer(redis, "flow-1-last")
    assert list(results) == ["hello", "a", "b", "last"]
    assert results["a"]["result"] == {"of": "flow-1-a"}


@pytest.mark.parametrize(
    ("earlier", "said", "sentence"),
    [
        ({}, {"status": "SUCCESS", "differs": False}, None),
        ({}, {"status": "SUCCESS", "differs": True}, "was sent before with other parameters"),
        (None, {"status": "RUNNING", "differs": True}, "was sent before with other parameters"),
        (None, {"status": "SUCCESS", "differs": False}, "was answered before, and its result has expired"),
        ({"status": "failure", "error_type": "X", "error": "y"}, {"status": "FAILURE"}, "failed: X: y; mend it"),
        ({"status": "cancelled"}, {"status": "CANCELLED"}, "was cancelled"),
    ],
)
async def test_what_was_sent_before_is_taken_only_as_the_worker_says(
    client: Client, redis: Redis, earlier: dict[str, Any] | None, said: dict[str, Any], sentence: str | None
) -> None:
    if earlier is not None:
        await answer(redis, "flow-1-hello", **earlier)
    caught: list[FlowError] = []

    async def run() -> None:
        try:
            await client.run_flow([Hello(), OwnParams()], timeout=20)
        except FlowError as error:
            caught.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        [entry] = await sent(redis, 1)
        await notice(redis, entry | {"entry_id": "1-1"}, status="SUCCESS", differs=True)  # of somebody else's entry
        await notice(redis, entry, **said)
        if sentence is None:
            await sent(redis, 2)
            await answer(redis, "flow-1-own")
    assert [str(error).startswith("step hello (execution flow-1-hello) ") for error in caught] == [True] * bool(
        sentence
    )
    assert all(sentence in str(error) for error in caught if sentence)
    assert await redis.xlen("sf:jobs") == (1 if sentence else 2)


async def test_nothing_is_sent_where_one_step_is_wrong(client: Client, redis: Redis) -> None:
    wrong = SsLr(input_paths={}, keys={}, label=ColumnRef(party="carol", column="y"), model_path={})
    with pytest.raises(ParameterValidationError, match=r"step ss_lr: task_config\.label\.party: "):
        await client.run_flow([PSI, wrong])
    assert await redis.xlen("sf:jobs") == 0
    with pytest.raises(TimeoutError):
        await client.run_flow([PSI], timeout=0.1)
    with pytest.raises(EnvelopeError):
        await client.submit({"task_config": {}})
