"""Holds what the pages are about: one consumer group on one Redis."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from sfworker.broker.broker import Broker
from sfworker.broker.keys import Keys
from sfworker.client import Client
from sfworker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Site:
    """The connections that all pages share."""

    settings: Settings
    group: str
    redis: Redis
    client: Client
    broker: Broker

    @property
    def keys(self) -> Keys:
        return self.client.keys
