"""How a Redis client is made: no blind retries (they would append or read twice), time-outs on everything."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0


def connect(url: str, *, max_connections: int = 16, socket_timeout: float | None = COMMAND_SECONDS) -> Redis:
    """A client for `url`. A blocking read needs one of its own, with `socket_timeout` above its BLOCK."""
    return Redis.from_url(  # type: ignore[no-any-return, unused-ignore]
        url,
        max_connections=max_connections,
        socket_timeout=socket_timeout,
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        client_name="sfworker",
    )


def shown(url: str) -> str:
    """The URL without user name and password, for logs."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
