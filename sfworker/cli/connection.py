"""Gives the subcommands that speak to Redis their common options, and connections whose errors say what to do."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from sfworker.cli.arguments import not_empty
from sfworker.errors import BrokerError, SettingsError
from sfworker.settings import Settings, load, variable

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sfworker.broker.broker import Broker
    from sfworker.client import Client


def add_redis_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis", metavar="URL", help=f"URL of the Redis server (default: {variable('redis_url')})")
    parser.add_argument("--prefix", help=f"prefix of every Redis key (default: {variable('prefix')}, or sf)")


def add_group_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group",
        type=not_empty,
        default="secretflow",
        help="consumer group that the workers read with (default: %(default)s)",
    )


def require_no_password(url: str | None) -> None:
    """Raise SettingsError where a URL on the command line holds a password, as every user of a host sees it there."""
    try:
        parts = urlsplit(url or "")
    except ValueError:  # it is no URL, as others will say
        return
    if parts.password or "password" in parse_qs(parts.query):
        raise SettingsError(
            f"--redis: holds a password, which `ps` shows to everybody; set {variable('redis_url')} in the "
            f"environment, or in the file that SFWORKER_CONFIG names"
        )


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Load the settings; the command line comes before the environment. Raises SettingsError."""
    require_no_password(arguments.redis)
    return load(redis_url=arguments.redis, prefix=arguments.prefix)


@asynccontextmanager
async def connected_client(settings: Settings) -> AsyncIterator[Client]:
    """Connect a client whose errors are sentences: SettingsError for an invalid URL, else BrokerError."""
    from sfworker.client import Client

    with _redis_errors_explained(settings.redis_url):
        async with Client(settings.redis_url, prefix=settings.prefix) as client:
            yield client


@asynccontextmanager
async def connected_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Connect to Redis itself; errors as of `connected_client`."""
    from sfworker.broker.connection import connect

    with _redis_errors_explained(settings.redis_url):
        async with connect(settings.redis_url) as redis:
            yield redis


@asynccontextmanager
async def connected_broker(settings: Settings, group: str) -> AsyncIterator[Broker]:
    """Connect a broker that changes executions but is no worker's; errors as of `connected_client`."""
    from sfworker.broker.broker import open_broker

    with _redis_errors_explained(settings.redis_url):
        async with open_broker(settings, group, worker_id="") as broker:
            yield broker


@asynccontextmanager
async def connected_to_group(settings: Settings, group: str) -> AsyncIterator[tuple[Redis, Broker]]:
    """Connect to Redis, and a broker of a group that is there; else raises as `require_group` does."""
    from sfworker.cli.known import require_group

    async with connected_redis(settings) as redis, connected_broker(settings, group) as broker:
        await require_group(redis, broker.keys, group)
        yield redis, broker


@contextmanager
def _redis_errors_explained(url: str) -> Iterator[None]:
    from redis import exceptions
    from redis.asyncio.sentinel import MasterNotFoundError

    from sfworker.broker.connection import shown
    from sfworker.client import is_refused

    try:
        yield
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        if is_refused(error):
            raise BrokerError(f"Redis at {shown(url)} refuses the user name or password") from None
        if isinstance(error, MasterNotFoundError):
            raise BrokerError(
                f"{shown(url)} names no master; are its sentinels running, is the service name right?"
            ) from None
        raise BrokerError(f"Redis at {shown(url)} cannot be reached; is it running, is the URL right?") from None
    except exceptions.ResponseError as error:
        if "WRONGTYPE" in str(error):
            raise BrokerError("a key holds a value of the wrong type; `sfworker doctor` names it") from None
        raise BrokerError(f"Redis at {shown(url)} refuses: {error}") from None
