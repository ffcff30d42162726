"""Implements `unbalanced_psi` and `unbalanced_psi_cache`, joins with a far longer file. Runs in party processes.

A cache is a directory per party, with the files that SecretFlow has written and one that describes them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sfworker.catalog.psi import JoinResult, UnbalancedPsiCacheParams, UnbalancedPsiCacheResult, UnbalancedPsiParams
from sfworker.errors import InputDataError
from sfworker.jobs.psi import Given, answer, give, intersect, join_two, log_hints, require_same, sides_of
from sfworker.models import saved
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import files

ABOUT, CONTENT = "psi-cache.json", "content"


class About(Struct, frozen=True, kw_only=True):
    """Description of a party's part of a cache."""

    cache_id: str
    server: str
    parties: list[str]
    source: str | None
    """Digest of the server's file and key columns, at the server only."""


@TaskDispatcher.register_task("unbalanced_psi_cache")
def unbalanced_psi_cache(context: JobContext[UnbalancedPsiCacheParams]) -> UnbalancedPsiCacheResult | None:
    """Encrypt the server's keys. Every party learns the cache's id, the client gets the encrypted keys."""
    params, server = context.params, context.params.server
    given = give(context, server) if context.is_local(server) else None
    directories = {
        party: context.output_directory(party, "cache_path", params.cache_path[party], holds=ABOUT)
        for party in context.parties
        if context.is_local(party)
    }
    cache_id = saved.drawn_id(context)
    started = {
        party: actor.intersect_unbalanced.remote(
            mode="MODE_OFFLINE",
            server=server,
            left_side=server,
            keys=given.given_keys if given and party == server else [],
            input_path=str(given.given) if given and party == server else "",
            output_path="",
            cache_path=str(directories[party] / CONTENT) if party in directories else "",
            readers=[],
        )
        for party, actor in context.spu.actors.items()
    }
    for party, directory in directories.items():
        try:
            context.value_at(party, started[party])
        except Exception:
            if given and party == server:
                files.whole(given.field, given.source)  # says which row is broken, where that is the reason
            raise
        source = _digest(given) if given and party == server else None
        about = About(cache_id=cache_id, server=server, parties=context.parties, source=source)
        with files.saving(f"task_config.cache_path.{party}"):
            (directory / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    if not context.is_speaker:
        return None
    return UnbalancedPsiCacheResult(cache_id=cache_id, cache_path=params.cache_path)


@TaskDispatcher.register_task("unbalanced_psi")
def unbalanced_psi(context: JobContext[UnbalancedPsiParams]) -> JoinResult | None:
    """Join like `psi` of two parties. Without a cache, the server's keys are encrypted into the scratch directory."""
    params = context.params
    sides = sides_of(context)
    caches = {party: context.scratch / f"psi-cache-{party}" for party in sides}
    if params.cache_path:
        caches = _caches(context, sides)
    reports = intersect(
        context,
        sides,
        lambda actor, party, own_files: actor.intersect_unbalanced.remote(
            **own_files,
            mode="MODE_ONLINE" if params.cache_path else "MODE_FULL",
            server=params.server,
            left_side=params.left_first(context.parties)[0],
            cache_path=str(caches.get(party, "")),
            readers=params.readers(context.parties),
        ),
    )
    written = join_two(context, sides, reports)
    require_same(context, written)
    log_hints(context, sides, written)
    found = answer(context, written)
    return None if found is None else JoinResult(**found)


def _caches(context: JobContext[UnbalancedPsiParams], sides: dict[str, Any]) -> dict[str, Path]:
    """Find the local parties' parts of the cache. Reveals the cache's id.

    Raises InputDataError where a part does not fit this job or the other part.
    """
    found = {party: _about(context, party) for party in sides}
    ids = context.reveal([context.at(party, _cache_id, found, party) for party in context.parties])
    if len(set(ids)) != 1:
        raise InputDataError("task_config.cache_path: the parties' directories hold parts of different caches")
    server = context.params.server
    if server in found and found[server][1].source != _digest(sides[server]):
        raise InputDataError(
            f"task_config.cache_path.{server}: was made from another file or other key columns than input_paths and "
            f"keys name; run unbalanced_psi_cache again"
        )
    return {party: directory / CONTENT for party, (directory, _) in found.items()}


def _about(context: JobContext[UnbalancedPsiParams], party: str) -> tuple[Path, About]:
    """Return a local party's directory and its description. Raises InputDataError."""
    params, field = context.params, f"task_config.cache_path.{party}"
    directory = context.input_directory(party, "cache_path", params.cache_path[party])
    try:
        about = msgspec.json.decode((directory / ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise InputDataError(f"{field}: holds no cache; run unbalanced_psi_cache first") from None
    if (about.server, about.parties) != (params.server, context.parties):
        raise InputDataError(f"{field}: was made for another server or other parties; run unbalanced_psi_cache again")
    return directory, about


def _cache_id(found: dict[str, tuple[Path, About]], party: str) -> str:
    return found[party][1].cache_id


def _digest(given: Given) -> str:
    """Return a digest that changes with the file, its format and the key columns."""
    digest = hashlib.sha256(msgspec.json.encode([given.source.suffix, given.source_keys]))
    with given.source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
