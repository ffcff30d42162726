"""Whom a worker takes for its gateway."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from sfworker.errors import GatewayLostError
from sfworker.pool.gateway import OwnGateway
from sfworker.pool.remotes import Remotes
from sfworker.settings import Settings
from sfworker.wire.gateway import Open, Terms

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
