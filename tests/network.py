"""A TCP port in front of a server, whose network can be slow or dead, speak TLS or be listened to; and sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path
from types import TracebackType

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.cli.embedded_redis import server_binary

HOST = "127.0.0.1"
MAX_UNDER_WAY = 256
"""Pieces of 64 KiB that one direction of a connection holds, so that a delay does not bound what passes in a second."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def start_sentinel(stack: contextlib.ExitStack, configuration: Path) -> None:
    """Start a sentinel, which ends with `stack`. It writes to its configuration, too."""
    command = bound_to_this_process([str(server_binary()), str(configuration), "--sentinel"])
    stack.callback(stop, subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True), 5.0)


class Network:
    """Use as `with Network(server.socket_path) as network`, at `127.0.0.1:{network.port}`.

    The server may be a port of this host, too.
    """

    def __init__(self, server: Path | int, tls: ssl.SSLContext | None = None) -> None:
        self.said: list[bytearray] = []
        """What passed, of each connection and direction."""
        self.delay = 0.0
        """Seconds that everything takes, in each direction."""
        self._alive = asyncio.Event()
        self._alive.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._behind = server
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def die(self) -> None:
        """Nothing arrives any more, in either direction; what is sent meanwhile arrives after `revive`, as in TCP."""
        self._loop.call_soon_threadsafe(self._alive.clear)

    def revive(self) -> None:
        self._loop.call_soon_threadsafe(self._alive.set)

    def cut(self) -> None:
        """Reset every connection. New ones are taken."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            writer.transport.abort()

    def __enter__(self) -> Network:
        self._thread.start()
        listen = asyncio.start_server(self._serve, HOST, 0, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(listen, self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._behind, int):
                there, back = await asyncio.open_connection(HOST, self._behind)
            else:
                there, back = await asyncio.open_unix_connection(str(self._behind))
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        except (OSError, asyncio.CancelledError):  # nothing listens behind it, or the end, when no close is waited for
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = bytearray()
        self.said.append(said)
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_UNDER_WAY)

        async def leave() -> None:
            data = b"_"
            while data:
                data = await reader.read(65536)
                await under_way.put((self._loop.time() + self.delay, data))

        async def arrive() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                await self._alive.wait()
                if not data:
                    return
                said.extend(data)
                writer.write(data)
                await writer.drain()

        leaving, arriving = asyncio.create_task(leave()), asyncio.create_task(arrive())
        self._writers.add(writer)
        try:
            await asyncio.wait({leaving, arriving}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.cancelled() and leaving.done() and leaving.exception() is None:
                await asyncio.wait({arriving})
        finally:
            leaving.cancel()
            arriving.cancel()
            await asyncio.gather(leaving, arriving, return_exceptions=True)
            self._writers.discard(writer)
            writer.close()
