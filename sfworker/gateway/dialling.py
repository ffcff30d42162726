"""Opens streams to the gateways of peers."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
from msgspec import Struct

from sfworker.gateway.identity import Identity
from sfworker.gateway.streams import RemoteHalf
from sfworker.settings import Settings
from sfworker.wire.frames import LENGTH_BYTES, FrameError, encode_frame, frame_length
from sfworker.wire.gateway import MAX_PREFACE_BYTES, Answer, Preface, decode_answer

HANDSHAKE_SECONDS = 5.0


class NotTakenError(Exception):
    """The peer's gateway has not taken a stream."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.verdict)
        self.answer = answer


class Dialler:
    """Opens streams as this party."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.party = settings.party
        self.silence_seconds = settings.peer_silence_seconds
        self.rendezvous_seconds = settings.rendezvous_seconds
        self._identity = identity

    async def call(self, address: str, preface: Preface) -> asyncio.StreamWriter:
        """Open a control stream. Raises NotTakenError, or OSError, EOFError or TimeoutError as the network does."""
        host, port = split(address)
        with anyio.fail_after(2 * HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=self._identity.client, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            try:
                self._require_peer(writer.get_extra_info("ssl_object"), preface.to)
                writer.write(encode_frame(preface))
                answer = await _read_answer(reader)
                if answer.verdict != "taken":
                    raise NotTakenError(answer)
            except BaseException:
                writer.transport.abort()
                raise
        return writer

    async def write(self, writer: asyncio.StreamWriter, message: Struct) -> None:
        """Write a message to a control stream. Raises OSError where it has ended."""
        writer.write(encode_frame(message))
        with anyio.fail_after(self.silence_seconds):
            await writer.drain()

    async def open_stream(self, address: str, preface: Preface, halves: set[Any]) -> RemoteHalf:
        """Open a stream that may be joined. It is in `halves` as long as it is open. Raises as `call` does."""
        host, port = split(address)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()

        def hear(body: bytes) -> None:
            half.hold()
            if not answered.done():
                answered.set_result(decode_answer(body))

        def end() -> None:
            halves.discard(half)
            if not answered.done():
                answered.set_exception(ConnectionResetError())

        half = RemoteHalf(hear, end, MAX_PREFACE_BYTES)
        halves.add(half)
        try:
            with anyio.fail_after(2 * HANDSHAKE_SECONDS):
                transport, _ = await loop.create_connection(
                    lambda: half, host, port, ssl=self._identity.client, ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
                self._require_peer(transport.get_extra_info("ssl_object"), preface.to)
                half.send(preface)
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

    def _require_peer(self, connection: Any, party: str) -> None:
        if (found := self._identity.party_of(connection)) != party:
            raise PermissionError(f"its address has the certificate of {found}")


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    """Raises ConnectionError where it is none."""
    try:
        length = frame_length(await reader.readexactly(LENGTH_BYTES), MAX_PREFACE_BYTES)
        return decode_answer(await reader.readexactly(length))
    except FrameError:
        raise ConnectionError("what answers is no gateway") from None


def split(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, where an IPv6 address has brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
