"""Messages between two proxies over Unix sockets, and what a stranger's bytes do to one."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sfworker.errors import RecurringError
from sfworker.session import codec
from sfworker.session.fed_proxy import UnixSocketProxy


@pytest.fixture
def proxies() -> Iterator[tuple[UnixSocketProxy, UnixSocketProxy, Path]]:
    with tempfile.TemporaryDirectory() as directory:  # short enough a path for a socket
        addresses = {party: f"unix:{directory}/{party}.sock" for party in ("alice", "bob")}
        alice, bob = [UnixSocketProxy(addresses, party, "job", None, None) for party in addresses]
        alice.start()
        bob.start()
        yield alice, bob, Path(directory) / "bob.sock"
        alice.stop()
        bob.stop()


def test_what_is_sent_arrives_whether_small_or_large(proxies: tuple[UnixSocketProxy, UnixSocketProxy, Path]) -> None:
    alice, bob, _ = proxies
    large = {"a": np.arange(1 << 20), "b": [b"x" * (1 << 20), (1, None)]}
    alice.send("bob", large, 7)
    alice.send("bob", [1, ("two",)], 3)
    assert bob.recv("alice", 3) == [1, ("two",)]
    arrived = bob.recv("alice", 7)
    assert np.array_equal(arrived["a"], large["a"])
    assert arrived["b"] == large["b"]


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">QQ", 1, codec.LONGEST + 1),
        struct.pack(">QQ", 1, (1 << 64) - 1),
        struct.pack(">QQ", 1, 0),
        struct.pack(">QQ", 1, 5) + b"\x80\x04N.x",
    ],
    ids=["too long", "as long as can be said", "empty", "a pickle"],
)
def test_a_message_that_cannot_be_read_is_told_where_it_is_awaited(
    proxies: tuple[UnixSocketProxy, UnixSocketProxy, Path], sent: bytes
) -> None:
    _, bob, path = proxies
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.sendall(sent)
        with pytest.raises(RecurringError, match="cannot be read"):
            bob.recv("alice", 1)
