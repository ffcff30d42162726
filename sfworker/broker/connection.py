"""Makes Redis clients, with time-outs on everything and no blind retries, which would append or read twice.

A URL is one of

    redis://user:password@host:6379/0
    rediss://host:6380/0?ssl_ca_certs=ca.pem&ssl_certfile=own.pem&ssl_keyfile=own.key    TLS, its options as in redis-py
    unix:///path/redis.sock
    redis+sentinel://user:password@host:26379,host:26379/service/0    the master that the sentinels name, now and later
    rediss+sentinel://...                                             the same, with TLS to sentinels and master

User and password of the sentinels themselves are the options `sentinel_username` and `sentinel_password`.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from sfworker.errors import SettingsError
from sfworker.settings import variable

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0
CLOSE_SECONDS = 1.0
SENTINEL_PORT = 26379
_SCHEMES = "redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
_DOWN = {"s_down", "o_down"}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# A connection that only listens would never notice that the network behind it is gone.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


def connect(url: str, *, max_connections: int = 16, socket_timeout: float | None = COMMAND_SECONDS) -> Redis:
    """Return a client for `url` that has sent nothing yet. A blocking read needs one without `socket_timeout`.

    Raises SettingsError where `url` is not a Redis URL, or a file that it names is not there.
    """
    options = {
        "max_connections": max_connections,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": CONNECT_SECONDS,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "sfworker",
    }
    try:
        pool = _pool(url, options)
        _check(pool.make_connection())  # type: ignore[no-untyped-call, unused-ignore]
    except ValueError:
        raise SettingsError(f"{variable('redis_url')}: not a URL of {_SCHEMES}") from None
    except (TypeError, RedisError):
        raise SettingsError(f"{variable('redis_url')}: unknown option or value behind the question mark") from None
    return Redis.from_pool(pool)


def shown(url: str) -> str:
    """Return the URL without user name, password and options, for logs."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    if not at and "@" in url:
        return f"{parts.scheme}://***"  # a password that should have been percent-encoded
    return f"{parts.scheme}://{host}{parts.path}"


def _pool(url: str, options: dict[str, Any]) -> ConnectionPool:
    scheme = urlsplit(url).scheme
    if scheme.endswith("+sentinel"):
        return _sentinel_pool(url, options)
    given: dict[str, Any] = dict(parse_url(url))
    if scheme == "unix":
        return ConnectionPool(**{**options, **given, "connection_class": _Unix})
    return ConnectionPool(**{**options, **_network(scheme), **given, "connection_class": _class(scheme)})


def _sentinel_pool(url: str, options: dict[str, Any]) -> ConnectionPool:
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix("+sentinel")
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("no service")
    # What redis-py reads from the URL of a single server, but for the host.
    given: dict[str, Any] = dict(parse_url(urlunsplit((scheme, f"{login}@sentinels", f"/{database}", parts.query, ""))))
    del given["host"]
    given.pop("connection_class", None)
    login_there = {name: given.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    common = {**options, **_network(scheme), **given}
    shared = {name: common[name] for name in common if name.startswith(("ssl_", "socket_", "retry"))}
    there = {**shared, **login_there, "socket_timeout": CONNECT_SECONDS}
    sentinels = _Sentinels([_address(host) for host in hosts.split(",")], _class(scheme), there)
    managed = _TlsMaster if scheme == "rediss" else _Master
    return SentinelConnectionPool(service, sentinels, **common, connection_class=managed)  # type: ignore[no-untyped-call, unused-ignore]


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or SENTINEL_PORT


def _network(scheme: str) -> dict[str, Any]:
    keepalive = {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    return {**keepalive, "ssl_check_hostname": True} if scheme == "rediss" else keepalive


def _class(scheme: str) -> type[Connection]:
    return _Tls if scheme == "rediss" else _Tcp


def _check(connection: AbstractConnection) -> None:
    """Raise SettingsError where TLS can never work; later it would look like a Redis that is away."""
    if not isinstance(connection, SSLConnection):
        return
    context = connection.ssl_context
    for option, path in zip(_TLS_FILES, (context.ca_certs, context.certfile, context.keyfile), strict=True):
        if path is not None and not os.access(path, os.R_OK):
            raise SettingsError(f"{variable('redis_url')}: {option} is not a file that can be read")
    try:
        context.get()
    except OSError as error:  # ssl's errors are among them
        raise SettingsError(
            f"{variable('redis_url')}: {', '.join(_TLS_FILES)} cannot be used ({type(error).__name__})"
        ) from None


def is_to_leave(error: ResponseError) -> bool:
    """Return whether a server says that it became a replica or lost its replicas."""
    # Before 7.0 a script's error only quotes the server's.
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error) or "NOREPLICAS " in str(error)


class _Sentinels:
    """Asks all sentinels for the master at once, because one that is silent would use up the others' time."""

    def __init__(
        self, addresses: list[tuple[str, int]], connection_class: type[Connection], options: dict[str, Any]
    ) -> None:
        self._addresses = addresses
        self._connection_class = connection_class
        self._options = options

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Return the master that the first sentinel to answer takes for alive. Raises MasterNotFoundError."""
        found: list[tuple[str, int]] = []
        errors: list[RedisError] = []

        async def ask(host: str, port: int) -> None:
            # For each question a new connection: it is asked once per connection to the master, so hardly ever.
            sentinel = self._connection_class(host=host, port=port, **self._options)
            try:
                await sentinel.connect()  # type: ignore[no-untyped-call, unused-ignore]
                await sentinel.send_command("SENTINEL", "MASTER", service)
                flat = [word.decode() for word in await sentinel.read_response()]
            except RedisError as error:
                errors.append(error)
                return
            finally:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                    await sentinel.disconnect()
            master = dict(zip(flat[::2], flat[1::2], strict=True))
            flags = set(master["flags"].split(","))
            if "master" in flags and not flags & _DOWN:
                found.append((master["ip"], int(master["port"])))
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for address in self._addresses:
                tasks.start_soon(ask, *address)
        if not found:
            raise MasterNotFoundError(f"no sentinel knows a master {service!r}") from (errors[0] if errors else None)
        return found[0]


class _Leaving(AbstractConnection):
    """Leaves a server that became a replica or lost its replicas, so that the next command finds the new master."""

    async def read_response(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*arguments, **named)
        except ResponseError as error:
            if is_to_leave(error):
                await self.disconnect(nowait=True)
            raise


class _Tcp(_Leaving, Connection):
    pass


class _Tls(_Leaving, SSLConnection):
    pass


class _Unix(_Leaving, UnixDomainSocketConnection):
    pass


class _Master(_Leaving, SentinelManagedConnection):
    pass


class _TlsMaster(_Leaving, SentinelManagedSSLConnection):
    pass
