"""Whom a worker takes for its gateway."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import anyio
import pytest

from sfworker.errors import GatewayLostError
from sfworker.pool.gateway import OwnGateway
from sfworker.pool.remotes import Remotes
from sfworker.settings import Settings
from sfworker.wire.frames import encode_frame, read_body
from sfworker.wire.gateway import Attach, Ended, Open, Opened, Terms, decode_from_worker

TERMS = Terms(parties=["alice", "bob"], task_type="psi", parameters="0" * 64, devices="0" * 64)


@pytest.mark.attack("gateway")
async def test_another_users_socket_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a directory that everybody may write to. Where one user runs the test, this process says it is another."""
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    settings = Settings(party="alice", tls_certificate="c", gateway_dir=str(tmp_path))
    opened = Open(execution_id=":1", directory="/secret", replays=0, settings={}, terms=TERMS, addresses={"bob": "h:1"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(settings.gateway_socket())
        listener.listen()
        remotes = Remotes(settings.gateway_socket(), opened, lambda party, traceparent: None)
        with pytest.raises(GatewayLostError, match="another user's"):
            await remotes.open(lambda heard: None)
        remotes.close()
        gateway = OwnGateway(settings)
        with anyio.move_on_after(1.0):
            await gateway.run()
        assert "another user's" in gateway.trouble
        listener.setblocking(False)
        heard = 0
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                break
            with connection:
                connection.settimeout(1.0)
                assert connection.recv(1) == b""
                heard += 1
        assert heard >= 2


async def test_a_new_gateway_hears_of_ends_but_not_of_executions_that_run_again(tmp_path: Path) -> None:
    settings = Settings(party="alice", tls_certificate="c", gateway_dir=str(tmp_path))
    gateway = OwnGateway(settings)
    for execution_id in (":1", ":2", ":3"):
        gateway.note_end(Ended(execution_id, "it failed", ["bob"], replays=0))
    gateway.note_begin(":2")
    heard: list[object] = []
    all_heard = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(heard) < 3:
            heard.append(decode_from_worker(await read_body(reader)))
            if len(heard) == 1:
                writer.write(encode_frame(Opened()))
        writer.close()
        all_heard.set()

    server = await asyncio.start_unix_server(serve, settings.gateway_socket())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.run)
            await all_heard.wait()
            tasks.cancel_scope.cancel()
    server.close()
    assert isinstance(heard[0], Attach)
    assert [ended.execution_id for ended in heard[1:] if isinstance(ended, Ended)] == [":1", ":3"]
