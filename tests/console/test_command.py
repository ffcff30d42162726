"""`sfworker console` as a process: it needs nothing that only workers have, says where it is, and ends when told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli import main
from sfworker.cli.child import bound_to_this_process
from sfworker.settings import Settings, variable
from tests.cli.states import send
from tests.console.test_acting import PSI, done
from tests.console.visiting import visiting
from tests.running_worker import RunningWorker, until

OF_WORKERS = ["cryptography", "grpc", "jax", "opentelemetry", "prometheus_client", "pyarrow", "secretflow", "uvloop"]
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, *more):
        if name.partition(".")[0] in {OF_WORKERS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from sfworker.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def console(redis_url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    ours = {variable(name) for name in Settings.__struct_fields__}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["REDIS_URL"] = redis_url
    command = bound_to_this_process([sys.executable, "-c", WITHOUT, "console", *words])
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_says_where_it_is_and_ends_when_told_to(redis_url: str, redis: Any, number: int, code: int) -> None:
    send(redis, "e-1")
    with console(redis_url, "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        url = re.findall(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        for path, words in (("executions", "e-1"), ("peers", "no gateway")):
            with urllib.request.urlopen(f"{url}{path}", timeout=30) as page:  # noqa: S310 - as above
                assert words in page.read().decode()
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], {}, "SFWORKER_CONSOLE_TOKEN: has to be set"),
        (["--listen", "nowhere"], {}, "SFWORKER_CONSOLE_LISTEN: has to be an address"),
        (["--redis", "redis://:secret@host"], {}, "--redis: holds a password"),
        ([], {"console_token": "short"}, "SFWORKER_CONSOLE_TOKEN: has to be 16 to 256"),
        ([], {"console_hosts": "a b"}, "SFWORKER_CONSOLE_HOSTS: has to be names of hosts"),
    ],
)
def test_wrong_settings_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    settings: dict[str, str],
    sentence: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(variable(name), value)
    assert main(["console", *words]) == 2
    assert f"sfworker: {sentence}" in capsys.readouterr().err


async def test_a_job_from_the_form_runs_and_its_page_shows_what_came_of_it(worker: RunningWorker, data: Path) -> None:
    for party, first in (("alice", 0), ("bob", 40)):
        rows = "".join(f"{number:04d},d\n" for number in range(first, first + 100))
        (data / f"{party}.csv").write_text(f"id,day\n{rows}")
    files = {
        f"p.{kind}_paths.{party}": str(data / f"{party}{end}.csv")
        for kind, end in (("input", ""), ("output", "-out"))
        for party in ("alice", "bob")
    }
    job = {**PSI, **files, "execution_id": f"form-{data.name}", "p.broadcast_result": ""}
    async with visiting(worker.redis_url) as visitor:
        assert "The job is sent" in await done(visitor, "/submit", **job)
        until(lambda: worker.redis.exists(f"sf:result:{job['execution_id']}"), 60)
        result = json.loads(worker.redis.get(f"sf:result:{job['execution_id']}"))
        page = await visitor.page(f"/execution?id={job['execution_id']}")
        assert result["result"]["intersection_count"] == 60
        assert "<dt>intersection_count</dt><dd>60</dd>" in page
        assert page.count("<svg") >= 3  # the intersection, time and memory
        assert all(sentence in page.replace("&#39;", "'") for sentence in result["disclosures"])
        assert str(data) not in page
        report = await visitor.get(f"/report?id={job['execution_id']}")
        assert report.headers["Content-Disposition"].startswith("attachment")
        assert str(data) not in await report.text()
