"""The console in Chromium, over a real worker: looked at, used by keyboard, with hostile words and without scripts.

Pictures of every page are kept in SFWORKER_PICTURES, else in pytest's directory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.console.browser import Tab, browser
from tests.console.conftest import EVIL
from tests.console.visiting import visiting
from tests.integration.test_execution import act
from tests.running_worker import RunningWorker, envelope

pytestmark = pytest.mark.slow
PAGES = {
    "overview": "/",
    "executions": "/executions",
    "succeeded": "/execution?id=matched",
    "failed": "/execution?id=broken",
    "running": "/execution?id=computing",
    "dead": "/dead",
    "submit": "/submit",
    "form": "/submit?type=ss_lr&parties=alice,bob",
    "control": "/control",
    "peers": "/peers",
    "unknown": "/execution?id=nobody",
}
# Text whose contrast to what is behind it is below 4.5 (large text: 3), fields without a name, tables without heads.
_FINDINGS = """(() => {
  const found = [], light = ([r, g, b]) => {
    const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const colour = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const seen = colour(getComputedStyle(at).backgroundColor);
      if (seen.length === 3 || seen[3] === 1) return seen;
    }
    return [255, 255, 255];
  };
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, .hidden, .skip, option, script")) continue;
    const style = getComputedStyle(element), [a, b] = [light(colour(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push(`contrast ${ratio} of ${element.outerHTML}`);
  }
  for (const field of document.querySelectorAll("input:not([type=hidden], [hidden]), select, textarea"))
    if (!field.labels.length && !field.getAttribute("aria-label")) found.push(`no name: ${field.outerHTML}`);
  for (const table of document.querySelectorAll("main > section > .table > table, main > .table > table"))
    if (!table.querySelector("th[scope=col]")) found.push(`no heads: ${table.outerHTML.slice(0, 100)}`);
  for (const part of ["body > header", "header > nav", "body > main", "h1", "body > footer"])
    if (document.querySelectorAll(part).length !== 1) found.push(part);
  const levels = [...document.querySelectorAll("h1, h2, h3")].map(head => Number(head.tagName[1]));
  levels.forEach((level, at) => { if (at && level > levels[at - 1] + 1) found.push(`h${level}, the ${at}th head`); });
  const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
  found.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map(id => `twice: ${id}`));
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const name of ["aria-labelledby", "aria-describedby"])
      for (const id of (element.getAttribute(name) || "").split(" ").filter(Boolean))
        if (!document.getElementById(id)) found.push(`no ${id}`);
  if (document.documentElement.scrollWidth > innerWidth)
    for (const element of document.querySelectorAll("body *"))
      if (element.getBoundingClientRect().right > innerWidth && !element.closest(".table, pre, svg"))
        found.push(`wider than the window: ${element.outerHTML.slice(0, 200)}`);
  return found;
})()"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, own_redis: Any) -> Iterator[RunningWorker]:
    """A worker of its own, on which one job has found rows, one has failed, and one runs."""
    directory = tmp_path_factory.mktemp("busy")
    logs = directory.with_name("busy-logs")
    with RunningWorker(own_redis.url, directory, worker_hostname="host", job_logs=str(logs), concurrency="2") as worker:
        for party, first in (("alice", 0), ("bob", 40)):
            rows = "".join(f"{number:04d},{number}\n" for number in range(first, first + 100))
            (directory / f"{party}.csv").write_text(f"id,{party}\n{rows}")
        parties = ("alice", "bob")
        psi = {"task_type": "psi", "receiver": "alice", "keys": {party: ["id"] for party in parties}}
        psi["input_paths"] = {party: f"{party}.csv" for party in parties}
        psi["output_paths"] = {party: f"{party}-out.csv" for party in parties}
        spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
        assert worker.run({**envelope(psi), "execution_id": "matched", "spu_config": spu})["status"] == "success"
        bad = {**psi, "keys": {"alice": ["no such column"], "bob": ["id"]}}
        worker.run({**envelope(bad), "execution_id": "broken", "spu_config": spu})
        yield worker


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    chosen = Path(os.environ.get("SFWORKER_PICTURES", tmp_path / "pictures"))
    chosen.mkdir(exist_ok=True, parents=True)
    return chosen


def console(worker: RunningWorker, **settings: Any) -> Any:
    logs = worker.environment["SFWORKER_JOB_LOGS"]
    return visiting(worker.redis_url, job_logs=logs, jobs=["tests.acting_job"], **settings)


async def test_every_page_in_both_languages_and_colours(busy: RunningWorker, pictures: Path, tmp_path: Path) -> None:
    execution_id = busy.send({**act("report", seconds=600.0), "execution_id": "computing"})
    async with console(busy) as visitor, browser(tmp_path / "profile") as tab:
        busy.until_said(execution_id, "progress")
        for language in ("en", "zh"):
            await tab.go(f"{visitor.url}/language?to_language={language}")
            for dark in (False, True):
                await tab.look(dark=dark)
                for name, path in PAGES.items():
                    await tab.go(f"{visitor.url}{path}")
                    (pictures / f"{name}-{language}-{'dark' if dark else 'light'}.png").write_bytes(await tab.picture())
                    assert await tab.run(_FINDINGS) == [], (name, language, dark)
        await tab.look(width=390)
        for name, path in PAGES.items():
            await tab.go(f"{visitor.url}{path}")
            (pictures / f"{name}-narrow.png").write_bytes(await tab.picture())
            assert await tab.run(_FINDINGS) == [], name
        assert [each for each in tab.troubles if "404" not in each] == []
        await visitor.post("/cancel", {"id": "computing"})
        busy.until_ended("computing")


async def test_a_page_shows_what_happens_while_it_is_looked_at(busy: RunningWorker, tmp_path: Path) -> None:
    busy.send({**act("report", seconds=40.0), "execution_id": "watched"})
    async with console(busy) as visitor, browser(tmp_path / "profile") as tab:
        busy.until_said("watched", "progress")
        await tab.go(f"{visitor.url}/execution?id=watched")
        await tab.run("window.stays = true")
        await tab.until("document.querySelector('#now progress')")
        await tab.run("document.querySelector('.act summary').click()")
        before = await tab.run("document.getElementById('timeline').textContent")
        await tab.until(f"document.getElementById('timeline').textContent !== {before!r}")
        assert await tab.run("window.stays && document.querySelector('.act').open")  # nothing was loaded anew
        assert "%" in await tab.run("document.getElementById('said').textContent")
        await tab.submit("document.querySelector('.act button').click()")
        busy.until_ended("watched")
        await tab.until("document.querySelector('#now .state.cancelled')")
        await tab.until("!document.querySelector('.act')")
        assert tab.troubles == []


async def test_a_job_is_sent_by_keyboard_alone(busy: RunningWorker, tmp_path: Path) -> None:
    async with console(busy) as visitor, browser(tmp_path / "profile") as tab:
        await tab.look()
        await tab.go(f"{visitor.url}/submit?type=hello")
        await tab.press("Tab", 9)
        assert await tab.run("document.activeElement.className") == "skip"
        assert await tab.run("document.activeElement.getBoundingClientRect().left >= 0")
        await tab.press("Enter", 13, "\r")
        await tab.until("document.activeElement.id === 'main'")
        for _ in range(20):
            await tab.press("Tab", 9)
            assert await tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
            if await tab.run("document.activeElement.name") == "p.name":
                break
        await tab.send("Input.insertText", text="<b>Ada</b>")
        await tab.press("Enter", 13, "\r")
        await tab.until("document.querySelector('#now .state.success')")
        assert "<b>Ada</b>" in await tab.run("document.getElementById('main').innerText")
        assert await tab.run("document.querySelector('main b')") is None
        assert tab.troubles == []


async def test_without_scripts_all_of_it_works(busy: RunningWorker, tmp_path: Path) -> None:
    async with console(busy) as visitor, browser(tmp_path / "profile") as tab:
        await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        await tab.go(f"{visitor.url}/")
        page = await _text(tab)
        assert '<meta http-equiv="refresh" content="10">' in page
        await tab.go(f"{visitor.url}/execution?id=matched")
        assert "What was revealed" in await _text(tab)


async def test_hostile_words_do_nothing(redis_url: str, evil: None, tmp_path: Path) -> None:
    async with visiting(redis_url) as visitor, browser(tmp_path / "profile") as tab:
        paths = ["/", "/executions", "/dead", "/control", f"/submit?type=psi&parties={quote(EVIL)}"]
        paths += [f"/execution?id={quote(EVIL + state)}" for state in ("", " failed", " waits", " runs", " queued")]
        for path in paths:
            await tab.go(f"{visitor.url}{path}")
            await asyncio.sleep(0.1)
            assert await tab.run("document.querySelectorAll('main img, main script').length") == 0
        assert tab.troubles == []


async def test_a_token_is_asked_for_once(busy: RunningWorker, pictures: Path, tmp_path: Path) -> None:
    async with console(busy, console_token="t" * 16) as visitor, browser(tmp_path / "profile") as tab:
        await tab.look()
        await tab.go(f"{visitor.url}/executions")
        (pictures / "login.png").write_bytes(await tab.picture())
        assert await tab.run(_FINDINGS.replace('"header > nav", ', "")) == []
        await tab.send("Input.insertText", text="t" * 16)
        await tab.press("Enter", 13, "\r")
        await tab.until("location.pathname === '/executions' && document.querySelector('main table')")
        await tab.submit("document.querySelector('header form button').click()")
        assert await tab.run("location.pathname") == "/login"
        assert tab.troubles == []


async def _text(tab: Tab) -> str:
    root = await tab.send("DOM.getDocument", depth=-1)
    html: str = (await tab.send("DOM.getOuterHTML", nodeId=root["root"]["nodeId"]))["outerHTML"]
    return html
