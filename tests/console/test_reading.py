"""The pages that read, over a real Redis: what they show, and that words from there stay words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.job_logs import log_file_of
from tests.cli.states import JOBS
from tests.console.conftest import EVIL
from tests.console.visiting import Own, visiting

PAGES = ("/", "/executions", "/peers")


async def test_overview_shows_what_top_shows(redis_url: str, redis: Any, jobs: None) -> None:
    async with visiting(redis_url) as visitor:
        page = await visitor.page("/")
        assert "sf:jobs:low" in page
        assert "InputDataError" in page
        assert "No worker serves group" in page
        redis.hset("sf:orders:secretflow", "pause type psi", "1")
        redis.hset("sf:orders:secretflow", "limit running type psi", "3 1")
        page = re.sub(r"</?bdi[^>]*>", "", await visitor.page("/"))
        assert "Paused: no psi job begins." in page
        assert "Limited: psi, 0 of 3 run; 0 wait." in page


async def test_executions_are_found_by_each_filter(redis_url: str, jobs: None) -> None:
    async with visiting(redis_url) as visitor:

        async def found(query: str) -> set[str]:
            page = await visitor.page(f"/executions?{query}")
            return {job for job in JOBS if f">{job}<" in page}

        assert await found("") == set(JOBS)
        assert await found("state=failure&state=cancelled") == {"failed", "cancelled"}
        assert await found("task_type=ss_xgb") == {"runs"}
        assert await found("error_type=InputDataError") == {"failed"}
        assert await found("worker=w-1&state=running") == {"runs"}
        assert await found("text=IS%20") == {"is high", "is low"}
        assert await found("since=15m") == set(JOBS)
        assert await found("since=nonsense&state=nonsense&before=nonsense") == set(JOBS)


async def test_pages_hold_each_execution_once(redis_url: str, redis: Any) -> None:
    for number in range(120):
        envelope = {"execution_id": f"e-{number:03d}", "task_config": {"task_type": "psi"}}
        redis.xadd("sf:jobs", {"envelope": json.dumps(envelope)})
    async with visiting(redis_url) as visitor:
        path, seen = "/executions?task_type=psi", []
        while path:
            page = await visitor.page(path)
            seen += [part.partition("<")[0] for part in page.split('<bdi translate="no">') if part.startswith("e-")]
            path = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
        assert seen == [f"e-{number:03d}" for number in reversed(range(120))]


@pytest.mark.parametrize("job", JOBS)
async def test_each_execution_has_a_page(redis_url: str, jobs: None, job: str) -> None:
    async with visiting(redis_url) as visitor:
        page = await visitor.page(f"/execution?id={quote(job)}")
        assert f'<h1><bdi translate="no">{job}</bdi></h1>' in page
        assert ("Nothing was said" in page) == (job in {"was given back", "is high", "is low"})


async def test_an_unknown_execution_is_said_so(redis_url: str, jobs: None) -> None:
    async with visiting(redis_url) as visitor:
        for path in ("/execution?id=nobody", "/execution", "/report?id=nobody", "/log?id=nobody", "/nothing"):
            response = await visitor.get(path)
            assert response.status == 404
            assert "<h1>Not possible</h1>" in await response.text()


@pytest.mark.attack("console")
async def test_paths_of_data_are_not_shown(redis_url: str, redis: Any) -> None:
    task = {"task_type": "psi", "input_paths": {"alice": "secret-place/a.csv"}}
    redis.xadd("sf:jobs", {"envelope": json.dumps({"execution_id": "e-1", "task_config": task})})
    async with visiting(redis_url) as visitor:
        page = await visitor.page("/execution?id=e-1")
        assert "input_paths" in page
        assert "secret-place" not in page


async def test_the_log_is_shown_where_this_host_has_it(redis_url: str, jobs: None, tmp_path: Path) -> None:
    line = {"time": "t", "level": "INFO", "logger": "l", "message": EVIL}
    log_file_of(str(tmp_path), "succeeded").write_text(f"{json.dumps(line)}\n" * 300)
    async with visiting(redis_url, job_logs=str(tmp_path)) as visitor:
        page = await visitor.page("/execution?id=succeeded")
        assert page.count("l: &lt;script&gt;") == 200
        assert "<script>alert" not in page
        whole = await visitor.get("/log?id=succeeded")
        assert whole.content_type == "text/plain"
        assert (await whole.text()).count("<script>") == 300
        assert "No log of it is kept on this host" in await visitor.page("/execution?id=failed")


@pytest.mark.attack("console")
async def test_no_word_from_redis_is_obeyed(redis_url: str, evil: None) -> None:
    executions = [EVIL, *(f"{EVIL} {state}" for state in ("failed", "waits", "runs", "queued"))]
    paths = [*PAGES, *(f"/execution?id={quote(each)}" for each in executions)]
    paths += [f"/executions?text={quote(EVIL)}&worker={quote(EVIL)}", f"/language?to={quote(EVIL)}"]
    async with visiting(redis_url) as visitor:
        for path in paths:
            html = await (await visitor.get(path)).text()
            html = re.sub(r'(<input type="hidden" name="id" value=")[^"]*', r"\1", html)  # which nobody sees
            turning = () if "?text=" in path else ("\u202e",)  # a field holds what was put there
            for start in ("<script>", "<img", "onerror=alert(2)>", "8641969", *turning):
                assert start not in html.replace("%3E", ">"), (path, start)
            own = Own(html) if html else None  # which notices what is not closed
            assert own is None or set(own.tags).isdisjoint({"img", "iframe", "object", "embed"})
        report = await (await visitor.get(f"/report?id={quote(EVIL)}")).text()
        assert "<script>" not in report
        assert "&lt;script&gt;" in report


async def test_peers_are_shown_as_status_shows_them(redis_url: str, tmp_path: Path) -> None:
    """Here without a gateway; `tests/gateway/test_seen.py` looks at one that runs."""
    make_authority(tmp_path, 10)
    make_certificate(tmp_path, "alice", 5)
    files = {"tls_certificate": "alice.pem", "tls_key": "alice.key", "tls_authority": "authority.pem"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    peers = {"bob": "bob.example:7000"}
    async with visiting(redis_url, party="alice", peers=peers, gateway_dir=str(tmp_path), **paths) as visitor:
        page = re.sub(r"</?bdi[^>]*>", "", await visitor.page("/peers"))
        assert "No gateway of alice answers this user on this host." in page
        assert "The certificate of alice ends at" in page
        assert "bob.example:7000" in page
        assert "never" in page


async def test_redis_that_is_away_is_a_sentence() -> None:
    async with visiting("unix:///nowhere/redis.sock") as visitor:
        response = await visitor.get("/")
        assert response.status == 503
        assert "Redis cannot be reached" in await response.text()
