"""Exchanges SecretFlow's fed objects between party processes, in a mesh over Unix sockets in a private directory.

SecretFlow's stock proxy (gRPC) binds every interface and spends seconds in reconnect back-off. The mesh's listens on a
socket file that only this user can reach and sends, per object::

    | sequence number, 8 byte | length, 8 byte | message |

A party that connects must be a process of the same user (SO_PEERCRED). `codec` says what a message may hold.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from typing import Any

from secretflow.distributed.fed import api as fed_api
from secretflow.distributed.fed.proxy.base import SenderReceiverProxy

from sfworker.session import codec, fed_values, table_values  # noqa: F401 - the last registers its values
from sfworker.wire.frames import receive_exactly

THREADS = ("fed-accept", "fed-receive")
_HEADER = struct.Struct(">QQ")
_CREDENTIALS = struct.Struct("3i")
_LARGE = 1 << 20
_CONNECT_SECONDS = 60.0
_CONNECT_PAUSE = 0.002


class UnixSocketProxy(SenderReceiverProxy):  # type: ignore[misc]
    """SecretFlow's sender and receiver over `unix:` addresses."""

    def __init__(
        self, addresses: dict[str, str], party: str, job_name: str, tls_config: Any, proxy_config: Any
    ) -> None:
        super().__init__(job_name, addresses, party, tls_config, proxy_config)
        self._paths = {name: address.removeprefix("unix:") for name, address in addresses.items()}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._peers: dict[str, socket.socket] = {}
        self._peer_locks = {name: threading.Lock() for name in addresses}
        self._arrived = threading.Condition()
        self._messages: dict[int, bytearray] = {}

    def start(self) -> None:
        self._listener.bind(self._paths[self._party])
        self._listener.listen(len(self._paths))
        threading.Thread(target=self._accept, name=THREADS[0], daemon=True).start()

    def stop(self) -> None:
        self._listener.close()
        for peer in self._peers.values():
            peer.close()

    def concurrent(self) -> bool:
        return True

    def send(self, dest_party: str, data: Any, seq_id: int) -> bool:
        pieces = codec.encode(data)
        length = sum(map(len, pieces))
        with self._peer_locks[dest_party]:
            if dest_party not in self._peers:
                self._peers[dest_party] = self._connect(self._paths[dest_party])
            self._peers[dest_party].sendall(_HEADER.pack(seq_id, length))
            # Many small buffers are copied sooner than they are sent one by one.
            for piece in pieces if length > _LARGE else [b"".join(pieces)]:
                self._peers[dest_party].sendall(piece)
        return True

    def recv(self, src_party: str, seq_id: int) -> Any:
        with self._arrived:
            # Without a time-out, because the daemon owns every deadline and ends a mesh whose peer died.
            self._arrived.wait_for(lambda: seq_id in self._messages)
            message = self._messages.pop(seq_id)
        return codec.loads(message)

    def forget(self, below: int) -> None:
        """Drop messages with lower sequence numbers, which nobody awaits any more."""
        with self._arrived:
            for seq_id in [each for each in self._messages if each < below]:
                del self._messages[seq_id]

    def _connect(self, path: str) -> socket.socket:
        # Peers start at the same time, so the other's socket may not be there for a few milliseconds.
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                peer.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                peer.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_CONNECT_PAUSE)
            else:
                return peer

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:  # closed by stop()
                return
            _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid != os.getuid():
                peer.close()
                continue
            threading.Thread(target=self._receive, args=(peer,), name=THREADS[1], daemon=True).start()

    def _receive(self, peer: socket.socket) -> None:
        with peer:
            while True:
                try:
                    header = receive_exactly(peer, _HEADER.size)
                    if header is None:
                        return
                    seq_id, length = _HEADER.unpack(header)
                    # What is too long is told where it is awaited, as any message that cannot be read.
                    message = receive_exactly(peer, length) if length <= codec.LONGEST else bytearray()
                except OSError:  # the peer died; the daemon sees that and ends this process
                    return
                if message is None:
                    return
                with self._arrived:
                    self._messages[seq_id] = message
                    self._arrived.notify_all()
                if length > codec.LONGEST:
                    return


def use_unix_sockets() -> None:
    """Make SecretFlow's fed API of this process use Unix sockets, and the codec wherever it would pickle."""
    fed_api.GrpcProxy = UnixSocketProxy  # the name that the API looks up is the one place to replace
    fed_values.use_codec()
