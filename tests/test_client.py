"""The web side's client against a real Redis; the worker's part is written by hand, as the contract says it."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionError_

from sfworker import client as client_module
from sfworker.broker.broker import Attempt, open_broker
from sfworker.broker.connection import connect
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.client import Client, Known, Submission, SyncClient
from sfworker.errors import EnvelopeError
from sfworker.settings import Settings

ENVELOPE = {
    "task_id": "t",
    "subtask_id": "s",
    "execution_id": "e-1",
    "sf_init_config": {},
    "task_config": {"task_type": "hello", "name": "世界"},
}
Say = Callable[..., Awaitable[None]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = connect(redis_url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture
def say(redis: Redis) -> Say:
    """Says a status event as a worker does; with `result`, the final one with its result, in one step."""

    async def say(
        status: str, stage: str = "progress", execution_id: str = "e-1", result: Any = None, publish: bool = True
    ) -> None:
        event = json.dumps({"execution_id": execution_id, "status": status, "stage": stage})
        async with redis.pipeline(transaction=True) as step:
            step.xadd("sf:results", {"kind": "status", "execution_id": execution_id, "payload": event})
            if result is not None:
                payload = json.dumps({"status": status.lower(), "result": result})
                step.xadd("sf:results", {"kind": "result", "execution_id": execution_id, "payload": payload})
                step.set(f"sf:result:{execution_id}", payload)
            if publish:
                step.publish(f"task_status:{execution_id}", event)
            await step.execute()

    return say


async def test_submit_appends_the_envelope_and_nothing_else(client: Client, redis: Redis) -> None:
    submission = await client.submit(ENVELOPE)
    [(entry_id, fields)] = await redis.xrange("sf:jobs")
    assert submission == Submission("e-1", entry_id.decode(), "0-0")
    assert list(fields) == [b"envelope"]
    assert json.loads(fields[b"envelope"]) == ENVELOPE


@pytest.mark.parametrize(
    ("options", "priority", "stream"),
    [
        ({"priority": "high"}, None, "sf:jobs:high"),
        ({"priority": "low"}, None, "sf:jobs:low"),
        ({"priority": "low"}, "high", "sf:jobs:high"),
        ({"priority": "low"}, "normal", "sf:jobs"),
        ({"priority": ["nonsense"]}, None, "sf:jobs"),
        ("nonsense", None, "sf:jobs"),
    ],
)
async def test_submit_chooses_the_stream(
    client: Client, redis: Redis, options: Any, priority: str | None, stream: str
) -> None:
    await client.submit({**ENVELOPE, "options": options}, priority)
    assert await redis.xlen(stream) == 1


async def test_submit_leaves_checking_to_the_worker_but_needs_an_id(client: Client, redis: Redis) -> None:
    await client.submit({"execution_id": "x", "nonsense": 1})
    for execution_id in ("", None, 7):
        with pytest.raises(EnvelopeError, match="execution_id"):
            await client.submit({"execution_id": execution_id})
    with pytest.raises(ValueError, match="priority"):
        await client.submit(ENVELOPE, "urgent")
    assert await redis.xlen("sf:jobs") == 1


async def test_the_current_span_goes_with_the_job(client: Client, redis: Redis, redis_url: str) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("web request") as span:
        await client.submit(ENVELOPE)
        with SyncClient(redis_url) as sync_client:
            await anyio.to_thread.run_sync(sync_client.submit, ENVELOPE)
    for _, fields in await redis.xrange("sf:jobs"):
        _, trace_id, span_id, _ = fields[b"traceparent"].decode().split("-")
        assert int(trace_id, 16) == span.get_span_context().trace_id
        assert int(span_id, 16) == span.get_span_context().span_id


async def test_wait_returns_a_result_that_is_already_there(client: Client, say: Say) -> None:
    await say("SUCCESS", "task_succeeded", result=42)
    assert await client.wait("e-1", timeout=5) == {"status": "success", "result": 42}
    assert await client.result("e-1") == {"status": "success", "result": 42}
    assert await client.result("e-2") is None


async def test_wait_wakes_on_the_final_event_not_before(
    client: Client, redis: Redis, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "POLL_SECONDS", 60.0)
    async with anyio.create_task_group() as tasks:

        async def worker() -> None:
            while await redis.pubsub_numsub("task_status:e-1") != [(b"task_status:e-1", 1)]:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await say("RUNNING", "task_started")
            await redis.publish("task_status:e-1", b"not JSON")
            await say("SUCCESS", "task_succeeded", result=1)

        tasks.start_soon(worker)
        assert (await client.wait("e-1", timeout=10))["result"] == 1


async def test_wait_does_not_depend_on_pub_sub(client: Client, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait, "e-1", 10)
        await anyio.sleep(0.05)
        await say("SUCCESS", "task_succeeded", result=1, publish=False)


async def test_wait_gives_up_after_its_time(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.wait("e-1", timeout=0.1)


async def test_events_include_those_said_before_and_end_after_the_final_one(client: Client, say: Say) -> None:
    submission = await client.submit(ENVELOPE)
    await say("RUNNING", "task_started")
    await say("RUNNING", "task_started", execution_id="another")
    await say("SUCCESS", "task_succeeded", execution_id="another", result=1)
    await say("RUNNING", "cluster_ready")
    heard = []
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            async for event in client.events(submission):
                heard.append(event["stage"])
                if event["stage"] == "cluster_ready":
                    ready.set()

        tasks.start_soon(listen)
        await ready.wait()
        await say("SUCCESS", "task_succeeded", result=1)
    assert heard == ["task_started", "cluster_ready", "task_succeeded"]
    assert [event["stage"] async for event in client.events("e-1")] == heard


async def test_events_go_on_after_a_replay(client: Client, say: Say) -> None:
    await say("FAILURE", "task_failed_final", result=0)
    await say("RETRY", "task_replayed")
    await say("SUCCESS", "task_succeeded", result=1)
    assert [event["status"] async for event in client.events("e-1")] == ["FAILURE", "RETRY", "SUCCESS"]


async def test_events_of_a_job_sent_again_after_its_answer_end(
    client: Client, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BLOCK_MILLISECONDS", 50)
    await say("SUCCESS", "task_succeeded", result=1)
    again = await client.submit(ENVELOPE)
    with anyio.fail_after(5):
        assert [event async for event in client.events(again)] == []


async def test_events_end_where_the_stream_was_trimmed(
    client: Client, redis: Redis, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BLOCK_MILLISECONDS", 50)
    await say("RUNNING", "task_started")
    await say("SUCCESS", "task_succeeded", result=1)
    await redis.xtrim("sf:results", maxlen=0, approximate=False)
    with anyio.fail_after(5):
        assert [event async for event in client.events("e-1")] == []


async def test_events_of_one_execution_are_found_in_a_long_stream(client: Client, redis: Redis, say: Say) -> None:
    for _ in range(12):
        async with redis.pipeline(transaction=False) as batch:
            for number in range(100):
                batch.xadd("sf:results", {"kind": "status", "execution_id": f"o-{number}", "payload": "{}"})
            await batch.execute()
        await say("RUNNING")
    await say("FAILURE", "task_failed_final", result=0)
    assert len([event async for event in client.events("e-1")]) == 13


async def test_cancel_marks_and_tells(client: Client, redis: Redis) -> None:
    async with redis.pubsub() as control:
        await control.subscribe("sf:control")
        assert await client.cancel("e-1") is True
        message = None
        while message is None:
            message = await control.get_message(ignore_subscribe_messages=True, timeout=5)
    assert message["data"] == b"e-1"
    assert await redis.get("sf:cancel:e-1") == b"1"
    assert 86_000 < await redis.ttl("sf:cancel:e-1") <= 86_400


async def test_cancel_leaves_an_ended_execution_alone(client: Client, redis: Redis, say: Say) -> None:
    await say("SUCCESS", "task_succeeded", result=1)
    assert await client.cancel("e-1") is False
    assert not await redis.exists("sf:cancel:e-1")


async def test_what_is_known_of_an_execution(client: Client, redis: Redis, redis_url: str) -> None:
    assert await client.find("e-1") is None
    await client.submit({"execution_id": "another"})
    assert await client.find("e-1") is None
    await client.submit(ENVELOPE, "low")
    assert await client.find("e-1") == Known("queued")
    async with open_broker(Settings(redis_url=redis_url), "secretflow", "worker-1") as broker:
        await broker.ensure_groups()
        attempt = next(found for each in await broker.take([1, 1]) if (found := Attempt.of(each)).execution_id == "e-1")
        await broker.start(attempt, (b'{"status":"RUNNING","attempt":', b"}"))
        assert await client.find("e-1") == Known("running", group="secretflow")
        await broker.retry(attempt, b'{"status":"RETRY"}', 0)
        assert await client.find("e-1") == Known("waiting", group="secretflow")
        [entry] = await broker.take([1])
        attempt = Attempt.of(entry)
        await broker.start(attempt, (b"", b""))
        result = {"status": "failure", "task_metadata": {"completed_at": "2024-01-01T00:00:00+00:00"}}
        event = {"status": "FAILURE", "timestamp": "2024-01-01T00:00:01+00:00"}
        await broker.bury(attempt, json.dumps(event).encode(), json.dumps(result).encode())
    known = await client.find("e-1")
    assert known == Known("answered", result, group="secretflow")
    assert known.answered_at == "2024-01-01T00:00:00+00:00"
    await redis.delete("sf:result:e-1")
    known = await client.find("e-1")
    assert known == Known("answered", event=event, group="secretflow")
    assert known.answered_at == "2024-01-01T00:00:01+00:00"
    await redis.delete("sf:results")
    known = await client.find("e-1")
    assert known == Known("answered", group="secretflow")
    assert known.answered_at is None


async def test_the_results_stream_tells_of_an_execution_without_a_record(client: Client, say: Say) -> None:
    await say("RUNNING", "task_started")
    assert (await client.find("e-1") or Known("sent")).state == "running"
    await say("RETRY", "task_retrying")
    assert (await client.find("e-1") or Known("sent")).state == "waiting"
    await say("CANCELLED", "task_cancelled")
    assert (await client.find("e-1") or Known("sent")).state == "answered"
    assert await client.find("e-2") is None


async def test_how_far_back_is_looked_can_be_bounded(
    client: Client, redis: Redis, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "READ_COUNT", 3)
    await client.submit(ENVELOPE)
    for number in range(10):
        await client.submit({"execution_id": f"o-{number}"})
    assert await client.find("e-1", newest=10) is None
    assert await client.find("e-1", newest=11) == Known("queued")
    assert await client.find("e-1") == Known("queued")
    await redis.delete("sf:jobs")
    await say("RUNNING")
    for _ in range(10):
        await say("RUNNING", execution_id="another")
    assert await client.find("e-1", newest=10) is None
    assert await client.find("e-1", newest=11) is not None


async def test_whether_a_worker_serves_a_group(client: Client, redis: Redis) -> None:
    assert await client.served() is False
    for group, worker in (("secretflow", "worker-1"), ("other", "worker-2"), ("secretflow", "new")):
        await redis.hset(f"sf:workers:{group}", worker, "1 1")  # type: ignore[misc, unused-ignore]
    assert await client.served() is False
    await redis.set("sf:worker:worker-2", "{}")
    assert (await client.served(), await client.served("other")) == (False, True)
    await redis.set("sf:worker:worker-1", "{}")
    assert (await client.served(), await client.served("other")) == (True, True)
    await redis.delete("sf:worker:worker-1")
    assert await client.served() is False
    await redis.set("sf:worker:new", "of another version")
    assert await client.served() is True


async def test_an_execution_that_failed_for_good_is_replayed_once(client: Client, redis: Redis, redis_url: str) -> None:
    await client.submit(ENVELOPE)
    assert await client.replay("e-1") == "not dead"
    async with open_broker(Settings(redis_url=redis_url), "secretflow", "worker-1") as broker:
        await broker.ensure_groups()
        [entry] = await broker.take([1])
        attempt = Attempt.of(entry)
        await broker.start(attempt, (b'{"status":"RUNNING","attempt":', b"}"))
        await broker.bury(attempt, b'{"status":"FAILURE"}', b'{"status":"failure"}')
        assert await client.wait("e-1") == {"status": "failure"}
        assert await client.replay("e-1", group="another") == "not dead"
        assert await client.replay("e-1") == "replayed"
        assert await client.replay("e-1") == "not dead"
        assert await client.result("e-1") is None
        [again] = await broker.take([1])
        assert again.entry_id == entry.entry_id
    payloads = [fields[b"payload"] for _, fields in await redis.xrange("sf:results")]
    assert sum(b"task_replayed" in payload for payload in payloads) == 1


async def test_waiting_and_watching_outlive_a_restart_of_redis(
    client: Client, redis: Redis, say: Say, redis_server: EmbeddedRedis
) -> None:
    submission = await client.submit(ENVELOPE)
    await say("RUNNING", "task_started")
    heard = []
    results = []
    running = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            async for event in client.events(submission):
                heard.append(event["stage"])
                running.set()

        async def wait() -> None:
            results.append(await client.wait("e-1", timeout=30))

        tasks.start_soon(watch)
        tasks.start_soon(wait)
        await running.wait()
        await anyio.to_thread.run_sync(redis_server.stop)
        await anyio.sleep(0.2)
        redis_server.start()  # in the main thread, which the server's life is bound to
        await redis.connection_pool.disconnect()
        await say("SUCCESS", "task_succeeded", result=1)
    assert heard == ["task_started", "task_succeeded"]
    assert results == [{"status": "success", "result": 1}]


async def test_a_prefix_moves_every_key(redis_url: str, redis: Redis) -> None:
    async with Client(redis_url, prefix="{sf}") as client:
        await client.submit(ENVELOPE)
        await client.cancel("e-1")
    assert sorted(await redis.keys("*")) == [b"{sf}:cancel:e-1", b"{sf}:jobs"]


def test_the_synchronous_client_does_the_same(redis_url: str) -> None:
    with SyncClient(redis_url) as client:
        submission = client.submit(ENVELOPE)
        assert client.result("e-1") is None
        assert client.find("e-1") == Known("queued")
        assert client.served() is False
        assert client.cancel("e-1") is True
        assert client.replay("e-1") == "not dead"
        with pytest.raises(TimeoutError):
            client.wait("e-1", timeout=0.05)

        async def answer() -> None:
            async with Client(redis_url) as worker:
                event = json.dumps({"status": "SUCCESS", "stage": "task_succeeded"})
                fields: dict[Any, Any] = {"kind": "status", "execution_id": "e-1", "payload": event}
                await worker._redis.set("sf:result:e-1", '{"status": "success"}')
                await worker._redis.xadd("sf:results", fields)

        thread = threading.Thread(target=anyio.run, args=(answer,))
        thread.start()
        assert [event["status"] for event in client.events(submission)] == ["SUCCESS"]
        thread.join()
        assert client.wait("e-1") == {"status": "success"}


async def test_a_wrong_password_is_no_reason_to_wait(redis_server: EmbeddedRedis) -> None:
    async with Client(f"unix://someone:wrong@{redis_server.socket_path}") as client:
        with pytest.raises(ConnectionError_):
            await client.wait("e-1", timeout=10)
        with pytest.raises(ConnectionError_):
            await anext(client.events("e-1"))
