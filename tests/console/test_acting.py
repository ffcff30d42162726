"""The pages that act: what they change in Redis, and that nothing else does."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

import pytest

from sfworker.broker.broker import open_broker
from sfworker.settings import Settings
from tests.console.conftest import EVIL
from tests.console.visiting import Own, Visitor, visiting

ACTS = (
    "cancel",
    "replay",
    "replay-many",
    "pause",
    "resume",
    "retry-now",
    "retry-all",
    "drain",
    "submit",
    "submit-envelope",
)


async def done(visitor: Visitor, path: str, **fields: Any) -> str:
    """Press a button; returns what the page that follows says."""
    response = await visitor.post(path, fields)
    assert response.status == 303, await response.text()
    page = await visitor.page(response.headers["Location"])
    return page.partition('<p class="notices" role="status">')[2].partition("</p>")[0]


def orders(redis: Any) -> set[str]:
    return {name.decode() for name in redis.hgetall("sf:orders:secretflow")}


@pytest.mark.attack("console")
async def test_nothing_acts_without_a_form_of_ours(redis_url: str, redis: Any, jobs: None) -> None:
    before = {key: redis.dump(key) for key in redis.keys("*")}
    async with visiting(redis_url) as visitor:
        for act in ACTS:
            fields = {"id": "runs", "what": "all", "order": "pause", "_token": "0" * 64}
            assert (await visitor.post(f"/{act}", fields)).status == 403
            assert (await visitor.post(f"/{act}", {}, headers={"Origin": "http://evil.example"})).status == 403
            assert (await visitor.get(f"/{act}", params={"id": "runs", "what": "all"})).status in (200, 405)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


async def test_cancel(redis_url: str, redis: Any, jobs: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfworker.console")
    async with visiting(redis_url) as visitor:
        for job in ("runs", "waits", "is low"):
            assert "It is being cancelled" in await done(visitor, "/cancel", id=job)
            assert redis.get(f"sf:cancel:{job}") == b"1"
            assert f"cancel by 127.0.0.1: cancelled id={job}" in caplog.text
        assert "It has ended already" in await done(visitor, "/cancel", id="succeeded")
        assert not redis.exists("sf:cancel:succeeded")
        assert (await visitor.post("/cancel", {"id": "nobody"})).status == 404
        assert not redis.exists("sf:cancel:nobody")


async def test_replay_one_and_many(redis_url: str, redis: Any, jobs: None) -> None:
    async with visiting(redis_url) as visitor:
        assert "keys.alice: no such column" in await visitor.page("/dead?error_type=InputDataError")
        assert "no such column" not in await visitor.page("/dead?error_type=Other")
        assert "It runs again" in await done(visitor, "/replay", id="failed")
        assert redis.hget("sf:exec:failed", "replays") == b"1"
        assert "not among the jobs" in await done(visitor, "/replay", id="failed")
        async with open_broker(Settings(redis_url=redis_url), "secretflow", "w-2") as broker:
            from tests.cli.states import FAILURE, send, take

            for number in range(3):
                send(redis, f"d-{number}", stream="sf:jobs:high")
            await broker.take([1])  # the one that was there
            for _ in range(3):
                await broker.bury(await take(broker), FAILURE, b'{"status":"failure"}')
        assert "0</bdi> replayed" in await done(visitor, "/replay-many", error_type="Other")
        assert "3</bdi> replayed" in await done(visitor, "/replay-many", error_type="InputDataError")
        assert "d-0" not in await visitor.page("/dead")


async def test_pause_and_resume(redis_url: str, redis: Any, jobs: None) -> None:
    async with visiting(redis_url) as visitor:
        for name, fields in (
            ("pause", {"what": "all"}),
            ("pause stream sf:jobs:low", {"what": "stream", "stream": "sf:jobs:low"}),
            ("pause type psi", {"what": "type", "task_type": "psi"}),
        ):
            assert "Paused" in await done(visitor, "/pause", **fields)
            assert orders(redis) == {name}
            assert name in await visitor.page("/control")
            assert "Resumed" in await done(visitor, "/resume", order=name)
            assert orders(redis) == set()
            assert "was not paused" in await done(visitor, "/resume", order=name)
        for fields in ({"what": "stream", "stream": "sf:results"}, {"what": "type"}, {"what": "drain w"}, {}):
            assert (await visitor.post("/pause", fields)).status == 422
        redis.hset("sf:orders:secretflow", "drain w-1", "1")
        assert (await visitor.post("/resume", {"order": "drain w-1"})).status == 422
        assert orders(redis) == {"drain w-1"}


async def test_retry_now(redis_url: str, redis: Any, jobs: None) -> None:
    def due() -> list[float]:
        return sorted(time for _, time in redis.zrange("sf:retries:normal:secretflow", 0, -1, withscores=True))

    later = due()[-1]
    async with visiting(redis_url) as visitor:
        assert "It is tried again" in await done(visitor, "/retry-now", id="waits")
        assert due()[-1] < later - 3_000_000
        assert "does not wait" in await done(visitor, "/retry-now", id="runs")
        assert "0</bdi> will be tried" in await done(visitor, "/retry-all")


async def test_drain(redis_url: str, redis: Any, jobs: None) -> None:
    async with visiting(redis_url) as visitor:
        assert (await visitor.post("/drain", {"worker": "w-1"})).status == 404
        async with open_broker(Settings(redis_url=redis_url), "secretflow", "w-1") as broker:
            await broker.heartbeat(b'{"worker_id":"w-1","concurrency":1,"running":1,"free":0}')
            await broker.renew([])
        assert "takes no more jobs" in await done(visitor, "/drain", worker="w-1")
        assert orders(redis) == {"drain w-1"}


PSI = {
    "type": "psi",
    "parties": "alice, bob",
    "p.keys.alice": "id\r\nday",
    "p.keys.bob": "id\nday",
    "p.input_paths.alice": "a.csv",
    "p.input_paths.bob": "b.csv",
    "p.output_paths.alice": "a-out.csv",
    "p.output_paths.bob": "b-out.csv",
    "p.receiver": "alice",
    "p.broadcast_result": "false",
    "p.protocol": "PROTOCOL_ECDH",
    "spu_protocol": "SEMI2K",
    "spu_field": "FM128",
    "execution_id": "e-1",
    "priority": "high",
}


async def test_a_form_makes_the_envelope_that_it_says(redis_url: str, redis: Any) -> None:
    async with visiting(redis_url) as visitor:
        assert "The job is sent" in await done(visitor, "/submit", **PSI)
        [(_, fields)] = redis.xrange("sf:jobs:high")
        envelope = json.loads(fields[b"envelope"])
        assert envelope["task_config"] == {
            "task_type": "psi",
            "keys": {"alice": ["id", "day"], "bob": ["id", "day"]},
            "input_paths": {"alice": "a.csv", "bob": "b.csv"},
            "output_paths": {"alice": "a-out.csv", "bob": "b-out.csv"},
            "receiver": "alice",
            "broadcast_result": False,
            "protocol": "PROTOCOL_ECDH",
        }
        assert envelope["sf_init_config"] == {"parties": ["alice", "bob"]}
        assert envelope["spu_config"]["cluster_def"]["runtime_config"] == {"protocol": "SEMI2K", "field": "FM128"}
        assert (envelope["execution_id"], envelope["options"]) == ("e-1", {"priority": "high"})
        again = await visitor.post("/submit", PSI)
        assert again.status == 422
        assert "choose another" in await again.text()
        assert redis.xlen("sf:jobs:high") == 1


async def test_what_is_wrong_is_said_at_its_field_and_nothing_is_sent(redis_url: str, redis: Any) -> None:
    async with visiting(redis_url) as visitor:
        for name, value, place, words in (
            ("p.receiver", "carol", "p-receiver", "names a party that is not in"),
            ("p.receiver", "", "p-receiver", "required and missing"),
            ("p.keys.bob", "", "p-keys", "task_config.keys.bob"),
            ("p.protocol", EVIL, "p-protocol", "task_config.protocol"),
            ("parties", "alice, b b", "parties", "sf_init_config.parties"),
            ("spu_protocol", "ABY4", "spu-protocol", "one of SEMI2K"),
            ("spu_field", "FM1", "spu-protocol", "one of SEMI2K"),
        ):
            response = await visitor.post("/submit", {**PSI, name: value})
            page = await response.text()
            assert response.status == 422, name
            assert words in page.partition(f'id="{place}-error"')[2][:200], (name, value)
            assert "<script>alert" not in page
            assert 'value="a-out.csv"' in page  # what was put in is still there
    assert not redis.exists("sf:jobs:low", "sf:jobs")


async def test_each_task_type_has_a_form(redis_url: str, redis: Any) -> None:
    """With numbers, choices, texts by party, columns and JSON; some that have it all are filled in."""
    from sfworker.catalog.installed import installed_task_types

    async with visiting(redis_url) as visitor:
        for task_type in installed_task_types([]):
            page = await visitor.page(f"/submit?type={task_type.name}&parties=alice,bob")
            Own(page)
            for field in task_type.params.__struct_fields__:
                assert f'name="p.{field}' in page, (task_type.name, field)
        tree = {"p.input_paths.alice": "a", "p.input_paths.bob": "b", "p.label.party": "alice", "p.label.column": "y"}
        tree |= {
            "p.model_path.alice": "m",
            "p.model_path.bob": "m",
            "p.num_boost_round": "3",
            "p.learning_rate": "1e-1",
        }
        await done(visitor, "/submit", type="sgb", parties="alice,bob", heu='{"mode": "PHEU"}', **tree)
        filled = {"p.input_paths.alice": "a", "p.input_paths.bob": "b", "p.output_paths.alice": "c"}
        filled |= {"p.output_paths.bob": "d", "p.strategy": "constant", "p.fill_value": '"x"', "p.features.alice": "f"}
        filled |= {"p.rules_path.alice": "r", "p.rules_path.bob": "r"}
        response = await visitor.post("/submit", {"type": "fillna", "parties": "alice,bob", **filled})
        assert response.status in (303, 422), response.status
        await done(visitor, "/submit", type="hello", parties="alice,bob", **{"p.name": "Ада"})
        sent = [json.loads(fields[b"envelope"])["task_config"] for _, fields in redis.xrange("sf:jobs")]
        assert {"task_type": "hello", "name": "Ада"} in sent
        [model] = [each for each in sent if each["task_type"] == "sgb"]
        assert (model["num_boost_round"], model["label"]) == (3, {"party": "alice", "column": "y"})
        assert (await visitor.get("/submit?type=nothing")).status == 404


async def test_a_whole_envelope(redis_url: str, redis: Any) -> None:
    job = {"task_id": "t", "subtask_id": "s", "execution_id": "e-2", "sf_init_config": {}, "own": 1}
    job["task_config"] = {"task_type": "hello"}
    async with visiting(redis_url) as visitor:
        for text, words in (
            ("no JSON", "envelope: not valid JSON"),
            ("[" * 5000, "nested too deep"),
            (json.dumps({**job, "task_config": {"task_type": "helo"}}), "did you mean hello"),
            (json.dumps({**job, "execution_id": ""}), "execution_id"),
            (json.dumps({**job, "task_config": {"task_type": "hello", EVIL: 1}}), "unknown parameter"),
        ):
            response = await visitor.post("/submit-envelope", {"envelope": text})
            page = await response.text()
            assert response.status == 422, text[:30]
            assert words in page
            assert "<script>alert" not in page
        assert "The job is sent" in await done(visitor, "/submit-envelope", envelope=json.dumps(job))
        [(_, fields)] = redis.xrange("sf:jobs")
        assert json.loads(fields[b"envelope"]) == job


@pytest.mark.attack("console")
async def test_words_of_others_stay_words_where_one_acts(redis_url: str, evil: None) -> None:
    async with visiting(redis_url) as visitor:
        for path in (
            "/dead",
            "/control",
            f"/submit?type=psi&parties={quote(EVIL)}",
            f"/dead?said=replayed_many&n={quote(EVIL)}",
        ):
            page = await visitor.page(path)
            assert "<script>alert" not in page
            assert "<img" not in page
            Own(page)
        for path, fields in (
            ("/cancel", {"id": f"{EVIL} runs"}),
            ("/replay", {"id": f"{EVIL} failed"}),
            ("/drain", {"worker": EVIL}),
            ("/pause", {"what": "type", "task_type": EVIL}),
        ):
            said = await done(visitor, path, **fields)
            assert said
            assert "script" not in said
