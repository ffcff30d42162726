"""Who gets in, and which requests are taken for a visitor's own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from sfworker.console import guard, server
from sfworker.console.server import listener
from sfworker.errors import SettingsError
from sfworker.settings import Settings, load
from tests.console.visiting import visiting

TOKEN = "a token of the tests"[:16].replace(" ", "-")


@pytest.mark.attack("console")
async def test_each_answer_forbids_what_no_page_needs(redis_url: str) -> None:
    async with visiting(redis_url) as visitor:
        for path in ("/", "/nothing", "/static/console.css", "/static/console.js", "/language?to_language=zh"):
            headers = (await visitor.get(path)).headers
            for name, value in guard.HEADERS.items():
                assert headers.get(name) == value, (path, name, headers)
        assert "unsafe" not in guard.POLICY


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8620", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8620", 200),
        ("console.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8620", 421),
        ("10.0.0.1", 421),
        ("a@localhost@evil.example", 421),
        ("[", 421),
    ],
)
@pytest.mark.attack("console")
async def test_a_name_that_somebody_has_pointed_here_is_refused(redis_url: str, host: str, status: int) -> None:
    async with visiting(redis_url, console_hosts=["console.example"]) as visitor:
        assert (await visitor.get("/", headers={"Host": host})).status == status


@pytest.mark.attack("console")
async def test_with_a_token_nothing_is_seen_before_it_is_given(redis_url: str, jobs: None) -> None:
    async with visiting(redis_url, console_token=TOKEN) as visitor:
        for path in ("/", "/executions", "/execution?id=succeeded", "/report?id=succeeded", "/peers", "/nothing"):
            response = await visitor.get(path)
            assert response.status == 303
            assert response.headers["Location"].startswith("/login?to=%2F")
            assert "succeeded" not in await response.text()
        begun = time.monotonic()
        wrong = await visitor.post("/login", {"token": TOKEN[:-1]}, at="/login")
        assert "This is not the token" in await wrong.text()
        assert time.monotonic() - begun > guard.PAUSE_SECONDS
        before = {cookie.value for cookie in visitor.session.cookie_jar}
        right = await visitor.post("/login", {"token": TOKEN, "to": "/executions?text=a"}, at="/login")
        assert (right.status, right.headers["Location"]) == (303, "/executions?text=a")
        [cookie] = [
            each for each in visitor.session.cookie_jar if each.value not in before
        ]  # none that was there before
        assert (cookie["samesite"], cookie["httponly"], cookie["path"]) == ("Strict", True, "/")
        assert "succeeded" in await visitor.page("/executions")
        await visitor.post("/logout", {})
        assert (await visitor.get("/executions")).status == 303


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\n"]
)
@pytest.mark.attack("console")
async def test_nobody_is_led_elsewhere(redis_url: str, to: str) -> None:
    async with visiting(redis_url, console_token=TOKEN) as visitor:
        assert (await visitor.get("/language", params={"to": to})).headers["Location"] == "/"
        response = await visitor.post("/login", {"token": TOKEN, "to": to}, at="/login")
        assert response.headers["Location"] == "/"


@pytest.mark.attack("console")
async def test_forms_of_others_are_refused(redis_url: str) -> None:
    async with visiting(redis_url, console_token=TOKEN, max_envelope_bytes=1024) as visitor:
        fields = {"token": TOKEN}
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}):
            assert (await visitor.post("/login", fields, at="/login", headers=headers)).status == 403
        assert (await visitor.post("/login", {**fields, "_token": "0" * 64}, at="/login")).status == 403
        assert (await visitor.post("/login", {"token": "t" * 100_000}, at="/login")).status == 413
        many = {f"field{number}": "" for number in range(guard.MOST_FIELDS + 1)}
        assert (await visitor.post("/login", many, at="/login")).status == 400
        form = await visitor.form_token("/login")
        async with aiohttp.ClientSession() as stranger:  # who has the words of the form, and not the cookie
            headers = {"Origin": visitor.url}
            data = {"_token": form, "token": TOKEN}
            async with stranger.post(f"{visitor.url}/login", data=data, headers=headers) as response:
                assert response.status == 403
        json = await visitor.session.post(f"{visitor.url}/login", json=fields, headers={"Origin": visitor.url})
        assert json.status == 415
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
            assert (await visitor.session.request(method, visitor.url)).status == 405


@pytest.mark.attack("console")
async def test_nonsense_and_slow_clients_cost_little(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 0.5)
    monkeypatch.setattr(server, "CONNECTIONS", 8)
    async with visiting(redis_url) as visitor:
        host, port = visitor.url.removeprefix("http://").split(":")
        for nonsense in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(nonsense)
            assert b"200" not in (await reader.read())[:20]
            writer.close()
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
        ends = await asyncio.wait_for(
            asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True), 10
        )
        assert len(ends) == 12
        for _, writer in silent:
            writer.close()
        assert (await visitor.get("/")).status == 200


@pytest.mark.attack("console")
async def test_a_page_that_fails_tells_nobody_what_it_held(
    redis_url: str, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    redis.set("sf:result:e-1", '{"status": "success", "income of a job": ')
    async with visiting(redis_url) as visitor:
        response = await visitor.get("/execution?id=e-1")
        assert response.status == 500
        assert "income" not in await response.text()
        assert "a page failed with DecodeError" in caplog.text
        assert "income" not in caplog.text


def test_others_reach_it_with_a_token_alone() -> None:
    for listen in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0", "console.example:0"):
        with pytest.raises(SettingsError, match="SFWORKER_CONSOLE_TOKEN"):
            listener(Settings(console_listen=listen))
    for listen in ("127.0.0.1", "127.0.0.1:x", ":8620", "127.0.0.1:99999"):
        with pytest.raises(SettingsError, match="SFWORKER_CONSOLE_LISTEN"):
            listener(Settings(console_listen=listen))
    with (
        listener(Settings(console_listen="localhost:0")),
        listener(Settings(console_listen="0.0.0.0:0", console_token=TOKEN)),
    ):
        pass
    with pytest.raises(SettingsError, match=r"SFWORKER_CONSOLE_TOKEN: .* 16"):
        load({"SFWORKER_CONSOLE_TOKEN": "short"})


async def test_a_console_for_others_is_known_by_addresses_and_its_names(redis_url: str) -> None:
    gate = guard.Guard(TOKEN, ["localhost", "console.example"], everywhere=True)
    from aiohttp.test_utils import make_mocked_request

    for host in ("10.0.0.1:8620", "[2001:db8::1]", "console.example"):
        gate.require_name(make_mocked_request("GET", "/", headers={"Host": host}))
    with pytest.raises(guard.RefusedError):
        gate.require_name(make_mocked_request("GET", "/", headers={"Host": "evil.example"}))
