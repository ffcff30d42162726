"""`sfworker doctor`, Redis' part: version, persistence, eviction, and each command that the worker needs.

Permissions are checked by queueing each command in a MULTI that is discarded: the server refuses a forbidden command
when it is queued, on all versions, for the worker's real keys and channels, and nothing is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from sfworker.broker.connection import connect, shown
from sfworker.broker.keys import DEAD_CONSUMER, Keys
from sfworker.broker.misplaced import Place, misplaced
from sfworker.broker.overview import consumers
from sfworker.broker.readers import REMEDY, slow_reader
from sfworker.broker.scripts import ids
from sfworker.cli.findings import Finding, error, ok, warning
from sfworker.client import is_refused
from sfworker.errors import SettingsError
from sfworker.settings import Settings, variable

OLDEST_VERSION = (6, 2)
MUCH = 0.9
"""Share of `maxmemory` from which on a warning is due."""
_GROUP = _CONSUMER = "doctor"
Command = tuple[str | int, ...]


async def redis(settings: Settings) -> AsyncIterator[Finding]:
    """All findings about the Redis of `settings`; when it cannot be reached there is only that one."""
    where = shown(settings.redis_url)
    try:
        client = connect(settings.redis_url)
    except SettingsError as unusable:
        yield error("redis", str(unusable), f"correct {variable('redis_url')}")
        return
    async with client:
        try:
            await client.echo("")
        except (exceptions.ConnectionError, exceptions.TimeoutError) as failure:
            if is_refused(failure):
                yield error("redis", f"{where} refuses the user name or password", f"correct {variable('redis_url')}")
            else:
                yield error("redis", f"{where} cannot be reached", f"start it, or correct {variable('redis_url')}")
            return
        except exceptions.NoPermissionError:
            pass  # it answers, and the worker sends no ECHO
        yield ok("redis", f"{where} answers")
        for finding in await _server(client, settings):
            yield finding
        keys = Keys(settings.prefix)
        areas = [keys, *keys.of_tenants(settings.tenants)]
        yield await _permissions(client, areas)
        yield await _types(client, areas)
        yield await _readers(client, settings)


async def _server(client: Redis, settings: Settings) -> list[Finding]:
    try:
        info = await client.info("everything")
    except exceptions.ResponseError:
        return [warning("redis", "INFO is refused, so version and persistence are unknown", "allow INFO for this user")]
    role = _role(info, sentinels="+sentinel:" in settings.redis_url)
    return [version(info), _persistence(info), _eviction(info), *_memory(info), role, *_slots(info, settings.prefix)]


def version(info: dict[str, Any]) -> Finding:
    """Return whether the server that said `info` is new enough."""
    redis_version = str(info.get("redis_version", "0"))  # of Valkey, the Redis that it stands in for
    numbers = tuple(int(part) for part in redis_version.split(".")[:2] if part.isdigit())
    if numbers >= OLDEST_VERSION:
        valkey = info.get("valkey_version")
        return ok(
            "redis version", f"Valkey {valkey}, compatible with Redis {redis_version}" if valkey else redis_version
        )
    return error("redis version", f"{redis_version} is older than 6.2", "upgrade the server to 6.2 or newer")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return error("persistence", "the append-only file cannot be written", "free disk space on Redis' machine")
        return ok("persistence", "append-only file")
    return warning(
        "persistence",
        "the append-only file is off, so jobs and results are lost when Redis crashes",
        "set `appendonly yes` in redis.conf",
    )


def _eviction(info: dict[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return ok("eviction", policy)
    return error(
        "eviction",
        f"maxmemory-policy is {policy}: under memory pressure Redis would delete jobs or results",
        "set `maxmemory-policy noeviction` in redis.conf",
    )


def _memory(info: dict[str, Any]) -> list[Finding]:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not most or used < most * MUCH:
        return []
    remedy = f"raise `maxmemory`, or lower {variable('results_maxlen')} and {variable('retention')}"
    if used >= most:
        return [error("redis memory", "all of maxmemory is used, so Redis refuses what the worker writes", remedy)]
    return [
        warning("redis memory", f"{used / most:.0%} of maxmemory is used; at all of it Redis refuses writes", remedy)
    ]


def _role(info: dict[str, Any], *, sentinels: bool) -> Finding:
    if info.get("role") not in (None, "master"):
        return error(
            "redis role", "this server is a replica and takes no writes", f"point {variable('redis_url')} to its master"
        )
    if sentinels and "min_slaves_good_slaves" not in info:  # which is told only where the option is set
        return warning(
            "redis role",
            "takes writes, and would go on when it is cut off from its replicas; a failover then loses those",
            "set `min-replicas-to-write 1` and `min-replicas-max-lag 10` in redis.conf",
        )
    return ok("redis role", "takes writes")


def _slots(info: dict[str, Any], prefix: str) -> list[Finding]:
    if not info.get("cluster_enabled") or re.match(r"[^{]*\{[^}]+\}", prefix):
        return []
    return [
        error(
            "cluster",
            f"the server is one of a cluster, where the keys of prefix {prefix} lie in different slots",
            f"set {variable('prefix')} to {{{prefix}}}, here and in the web side",
        )
    ]


async def _readers(client: Redis, settings: Settings) -> Finding:
    try:
        reader = await slow_reader(client, Keys(settings.prefix), settings)
    except exceptions.RedisError:
        return warning("results", "unknown who reads them", "see the findings above")
    if reader is None:
        return ok("results", "no consumer group is behind")
    return warning("results", reader.sentence(settings.results_unread_maxlen), REMEDY)


async def _types(client: Redis, areas: list[Keys]) -> Finding:
    try:
        found: dict[Place, str] = {}
        for group in {*await consumers(client, areas[0]), "secretflow"}:
            found |= await misplaced(client, areas, group)
    except exceptions.RedisError:
        return warning("keys", "unknown what types they have", "see the findings above")
    if not found:
        return ok("keys", "each holds what it has to, or nothing yet")
    what = "; ".join(place.sentence(kind) for place, kind in found.items())
    return error("keys", what, f"DEL {' '.join(place.key for place in found)}, and find out who writes there")


async def _permissions(client: Redis, areas: list[Keys]) -> Finding:
    keys = areas[0]
    try:
        denied = await _denied(client, [command for area in areas for command in needed(area)])
    except exceptions.NoPermissionError:
        return warning("permissions", "unknown, as MULTI is refused", "allow MULTI for this user")
    except exceptions.MovedError as moved:
        return error(
            "cluster",
            f"the keys of prefix {keys.prefix} lie on another server of the cluster, {moved.host}:{moved.port}",
            f"point {variable('redis_url')} to that one",
        )
    except (exceptions.ReadOnlyError, exceptions.ConnectionError, exceptions.TimeoutError):
        return warning("permissions", "unknown, as the server takes no writes or has gone", "look again at the master")
    if not denied:
        return ok("permissions", "every command that the worker needs is allowed")
    return error(
        "permissions",
        f"refused: {', '.join(denied)}",
        f"allow them for this user, with the keys ~{keys.prefix}:* and the channels &{keys.prefix}:* and &task_status*",
    )


def needed(keys: Keys) -> list[Command]:
    """List the commands of the worker's scripts and reads, with the names that they use."""
    jobs, record, result = keys.jobs(), keys.execution("doctor"), keys.result("doctor")
    retries = keys.retries(jobs, _GROUP)
    streams: list[Command] = [
        command
        for stream in keys.job_streams()
        for command in (
            ("XGROUP", "CREATE", stream, _GROUP, "0", "MKSTREAM"),
            ("XREADGROUP", "GROUP", _GROUP, _CONSUMER, "COUNT", 1, "STREAMS", stream, ">"),
            ("XPENDING", stream, _GROUP),
            ("XCLAIM", stream, _GROUP, DEAD_CONSUMER, 0, "0-1", "JUSTID"),
            ("XACK", stream, _GROUP, "0-1"),
            ("XDEL", stream, "0-1"),
            ("XRANGE", stream, "-", "+", "COUNT", 1),
            ("XLEN", stream),
            ("XINFO", "GROUPS", stream),
            ("XINFO", "CONSUMERS", stream, _GROUP),
            ("XGROUP", "DELCONSUMER", stream, _GROUP, _CONSUMER),
        )
    ]
    return [
        *streams,
        ("XADD", jobs, "*", "envelope", ""),
        ("XADD", keys.results, "MAXLEN", "~", 1000, "*", "kind", ""),
        ("XADD", keys.notices, "MAXLEN", "~", 1000, "*", "execution_id", ""),
        ("XLEN", keys.results),
        ("XINFO", "GROUPS", keys.results),
        ("XPENDING", keys.results, _GROUP),
        ("PUBLISH", keys.statuses("doctor"), ""),
        ("PUBLISH", keys.all_statuses, ""),
        ("SUBSCRIBE", keys.control),
        ("SET", result, "", "EX", 1),
        ("SET", keys.worker("doctor"), "", "PX", 1),
        ("GET", result),
        ("SET", keys.envelope("doctor"), "", "EX", 1),
        ("EXISTS", keys.cancel("doctor")),
        ("DEL", keys.cancel("doctor")),
        ("HSET", record, "state", ""),
        ("HINCRBY", record, "attempt", 1),
        ("HGET", record, "state"),
        ("HMGET", record, "state"),
        ("HGETALL", record),
        ("HDEL", record, "state"),
        ("EXPIRE", record, 1),
        ("PERSIST", record),
        ("ZADD", retries, 1, "0-1"),
        ("ZRANGEBYSCORE", retries, "-inf", "+inf"),
        ("ZSCORE", retries, "0-1"),
        ("ZREM", retries, "0-1"),
        ("ZADD", keys.ended("success"), 1, ""),
        ("ZREVRANGEBYSCORE", keys.ended("success"), "+inf", "-inf"),
        ("ZREMRANGEBYRANK", keys.ended("success"), 0, 0),
        ("ZLEXCOUNT", keys.running(_GROUP), "-", "+"),
        ("ZRANGEBYLEX", keys.running(_GROUP), "-", "+"),
        ("ZREMRANGEBYLEX", keys.starts(_GROUP), "-", "+"),
        ("ZCOUNT", keys.ended("success"), "-inf", 0),
        ("ZCARD", retries),
        ("HSCAN", keys.answers(_GROUP), 0),
        ("MGET", keys.worker("doctor"), keys.cancel("doctor")),
        ("TIME",),
        ("TYPE", jobs),
        ("SCRIPT", "LOAD", "return 1"),
        *(("EVALSHA", script, 1, record) for script in ids()),
    ]


async def _denied(client: Redis, commands: list[Command]) -> list[str]:
    """The commands that the server refuses to queue. Raises NoPermissionError where it refuses MULTI itself, MovedError
    where another server of a cluster holds the keys."""
    # Below the client's own methods, which would take `QUEUED` for the commands' replies.
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call, unused-ignore]
    try:
        await connection.send_command("MULTI")
        await connection.read_response()
        denied: dict[str, None] = {}
        for command in commands:
            await connection.send_command(*command)
            try:
                await connection.read_response()
            except (exceptions.ReadOnlyError, exceptions.MovedError):
                raise  # the first of which ended the connection, too: over another one, commands would be run
            except exceptions.ResponseError as refusal:
                if isinstance(refusal, exceptions.NoPermissionError) or "unknown" in str(refusal):
                    denied[_name(command)] = None
        return list(denied)
    finally:
        await connection.disconnect()  # which discards the transaction, whatever state it is in
        await client.connection_pool.release(connection)


def _name(command: Command) -> str:
    """Name a command as it is allowed, with its subcommand or first key or channel, as either may be refused."""
    if command[0] == "XREADGROUP":
        return f"XREADGROUP {command[-2]}"
    return " ".join(map(str, command[:3] if command[0] in ("XGROUP", "XINFO") else command[:2]))
