"""What the subcommands that speak to Redis share: their options, and errors that say what to do."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from sfworker.errors import BrokerError
from sfworker.settings import Settings, load, variable

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sfworker.broker.broker import Broker
    from sfworker.client import Client


def add_redis_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis", metavar="URL", help=f"Redis to speak to (default: {variable('redis_url')})")
    parser.add_argument("--prefix", help=f"prefix of every key (default: {variable('prefix')}, or sf)")


def add_group_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", default="secretflow", help="consumer group of the workers (default: %(default)s)")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings, with what the command line says. Raises SettingsError."""
    return load(redis_url=arguments.redis, prefix=arguments.prefix)


@asynccontextmanager
async def connected_client(settings: Settings) -> AsyncIterator[Client]:
    """A client whose errors are sentences: raises SettingsError for a URL that is none, else BrokerError."""
    from sfworker.client import Client

    with _redis_errors_explained(settings.redis_url):
        async with Client(settings.redis_url, prefix=settings.prefix) as client:
            yield client


@asynccontextmanager
async def connected_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A connection whose errors are sentences, as `connected_client`."""
    from sfworker.broker.connection import connect

    with _redis_errors_explained(settings.redis_url):
        async with connect(settings.redis_url) as redis:
            yield redis


@asynccontextmanager
async def connected_broker(settings: Settings, group: str) -> AsyncIterator[Broker]:
    """What changes executions in the name of no worker; its errors are sentences, as `connected_client`."""
    from sfworker.broker.broker import open_broker

    with _redis_errors_explained(settings.redis_url):
        async with open_broker(settings, group, worker_id="") as broker:
            yield broker


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
            raise BrokerError(f"{shown(url)} names no master; do sentinels run there, is the name right?") from None
        raise BrokerError(f"Redis at {shown(url)} cannot be reached; is it running, is the URL right?") from None
    except exceptions.ResponseError as error:
        raise BrokerError(f"Redis at {shown(url)} refuses: {error}") from None
