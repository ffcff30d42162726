"""Opens streams to the gateways of peers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from msgspec import Struct

from sfworker.gateway.accounts import Accounts
from sfworker.gateway.identity import Identity
from sfworker.gateway.streams import Half, RemoteHalf
from sfworker.settings import Settings
from sfworker.wire.frames import LENGTH_BYTES, FrameError, encode_frame, read_body
from sfworker.wire.gateway import MAX_PREFACE_BYTES, Answer, Passed, Preface, decode_answer

HANDSHAKE_SECONDS = 5.0
_Half = TypeVar("_Half", bound=Half)


class NotTakenError(Exception):
    """The peer's gateway has not taken a stream."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.verdict)
        self.answer = answer


class Dialler:
    """Opens streams as this party, and counts them on the accounts of peers."""

    def __init__(self, settings: Settings, identity: Identity, accounts: Accounts) -> None:
        self.party = settings.party
        self.silence_seconds = settings.peer_silence_seconds
        self.rendezvous_seconds = settings.rendezvous_seconds
        self.accounts = accounts
        self._identity = identity

    async def call(self, address: str, preface: Preface) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a control stream. Raises NotTakenError, or OSError, EOFError or TimeoutError as the network does."""
        host, port = split(address)
        with anyio.fail_after(2 * HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=self._identity.client, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            try:
                self._require_peer(writer.get_extra_info("ssl_object"), preface.to)
                await self.write(preface.to, writer, preface)
                answer = await self._read_answer(preface.to, reader)
                if answer.verdict != "taken":
                    raise NotTakenError(answer)
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    async def write(self, party: str, writer: asyncio.StreamWriter, message: Struct) -> None:
        """Write a message to a control stream. Raises OSError where it has ended."""
        body = encode_frame(message)
        self.accounts.of(party).sent += len(body)
        writer.write(body)
        with anyio.fail_after(self.silence_seconds):
            await writer.drain()

    async def read(self, party: str, reader: asyncio.StreamReader) -> bytes:
        """Read a message's body from a control stream. Raises EOFError, OSError or FrameError where there is none."""
        body = await read_body(reader, MAX_PREFACE_BYTES)
        self.accounts.of(party).received += LENGTH_BYTES + len(body)
        return body

    async def open_stream(self, address: str, preface: Preface, halves: set[Any]) -> RemoteHalf:
        """Open a stream that may be joined. It is in `halves` as long as it is open. Raises as `call` does."""
        host, port = split(address)

        async def connect(half: RemoteHalf) -> None:
            half.account = self.accounts.of(preface.to)
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: half, host, port, ssl=self._identity.client, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            self._require_peer(transport.get_extra_info("ssl_object"), preface.to)

        half = await _open(RemoteHalf, connect, preface, halves)
        half.count()
        return half

    def _require_peer(self, connection: Any, party: str) -> None:
        if (found := self._identity.party_of(connection)) != party:
            raise PermissionError(f"its address has the certificate of {found}")
        self.accounts.of(party).saw(connection.getpeercert())

    async def _read_answer(self, party: str, reader: asyncio.StreamReader) -> Answer:
        """Raises ConnectionError where it is none."""
        try:
            return decode_answer(await self.read(party, reader))
        except FrameError:
            raise ConnectionError("what answers is no gateway") from None


async def pass_on(path: str, passed: Passed, halves: set[Any]) -> Half:
    """Open a stream to a gateway that is being replaced, at its socket. Raises as `open_stream` does."""

    async def connect(half: Half) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: half, path)

    return await _open(Half, connect, passed, halves)


async def _open(
    kind: type[_Half], connect: Callable[[_Half], Awaitable[None]], first: Preface | Passed, halves: set[Any]
) -> _Half:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def hear(body: bytes) -> None:
        half.hold()
        if not answered.done():
            answered.set_result(decode_answer(body))

    def end() -> None:
        halves.discard(half)
        if not answered.done():
            answered.set_exception(ConnectionResetError())

    half = kind(hear, end, MAX_PREFACE_BYTES)
    halves.add(half)
    try:
        with anyio.fail_after(2 * HANDSHAKE_SECONDS):
            await connect(half)
            half.send(first)
            answer = await answered
    except BaseException:
        answered.cancel()
        halves.discard(half)  # whose end is not heard where it never was connected
        half.abort()
        raise
    if answer.verdict != "taken":
        half.abort()
        raise NotTakenError(answer)
    return half


def split(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, where an IPv6 address has brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
