"""The container's health check: 0 while Redis holds a heartbeat of the worker in this container, else 1 and a sentence.

Runs in a process of its own, started by the container engine. Reads the worker's settings from the environment and its
TOML file, so a container's Redis is named by REDIS_URL, not by `--redis`. A heartbeat expires by itself: one that is
there was renewed moments ago by a daemon that reaches Redis.
"""

from __future__ import annotations

import asyncio
import re
import sys

from redis.exceptions import RedisError

from sfworker.broker.connection import connect, shown
from sfworker.broker.keys import Keys
from sfworker.errors import SettingsError
from sfworker.settings import Settings, load


async def has_heartbeat(settings: Settings) -> bool:
    """Whether a worker lives whose id starts with this host's name (or WORKER_HOSTNAME)."""
    key = Keys(settings.prefix).worker(settings.hostname())
    pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", key) + "*"
    async with connect(settings.redis_url, socket_timeout=5.0) as redis:
        async for _ in redis.scan_iter(match=pattern, count=1000):
            return True
    return False


def main() -> int:
    try:
        settings = load()
        if asyncio.run(has_heartbeat(settings)):
            return 0
        print(f"no heartbeat of a worker on {settings.hostname()}")
    except SettingsError as error:
        print(error)
    except RedisError as error:
        print(f"Redis at {shown(settings.redis_url)} cannot be asked: {type(error).__name__}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
