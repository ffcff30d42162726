"""Makes the Start frame of each process that runs an accepted job. Runs in the daemon."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import msgspec

from sfworker.catalog.job import Job
from sfworker.limits import Limits
from sfworker.pool.processors import Processors
from sfworker.settings import Settings
from sfworker.wire.devices import DEFAULT_FIELD, acknowledges
from sfworker.wire.frames import Floors, Start
from sfworker.wire.gateway import Open, Terms


def starts(
    job: Job, attempt: int, settings: Settings, directory: str, tenant: str, processors: Processors, *, traced: bool
) -> list[Start]:
    """Return one frame per process, whose scratch directories (made here, 0700) and sockets lie in `directory`.

    The frames' processors are taken from `processors`, where a limit is set.
    """
    frames = [
        msgspec.structs.replace(
            _start(job, attempt, settings, directory, rank, party, traced=traced),
            programs_dir=programs_dir(os.path.dirname(directory), tenant, settings),
            programs_bytes=settings.programs_bytes,
        )
        for rank, party in enumerate(processes(job))
    ]
    if threads := job.resources.threads:
        return [msgspec.structs.replace(frame, processors=processors.acquire(threads.amount)) for frame in frames]
    return frames


def programs_dir(run_dir: str, tenant: str, settings: Settings) -> str:
    """Return the directory of a tenant's compiled programs, or nothing where none are kept.

    Its name is no path, whatever a tenant's is to a node of a cluster.
    """
    if not settings.programs_bytes or settings.start_method == "spawn":  # whose processes each load code of their own
        return ""
    return f"{run_dir}/programs/{hashlib.sha256(tenant.encode()).hexdigest()}"


def processes(job: Job) -> list[str | None]:
    """Return the party of each process that this host runs for the job, None for one that drives them all."""
    if job.mode == "none":
        return [job.self_party]
    return [party for party in job.parties if party not in job.peers]


def session_key(job: Job, tenant: str, frames: list[Start]) -> bytes:
    """Return what is the same for executions that one session may serve. `frames` are those of `starts`.

    It holds all of the frames but what an execution has of its own, and what the links are made for. An SPU with the
    task type's defaults is made in the session where it has none yet.
    """
    alike = [
        msgspec.structs.replace(
            frame,
            execution_id="",
            task_id="",
            subtask_id="",
            attempt=0,
            task_config={},
            spu_config=_plain(job.envelope.spu_config),
            mesh_dir="",
            scratch_dir="",
            processors=[],
            traced=False,
        )
        for frame in frames
    ]
    acknowledged = acknowledges(job.task_type.name, _plain(job.envelope.spu_config))
    granted = [limit and limit.amount for limit in (job.resources.threads, job.resources.memory)]
    joined = [tenant, job.cluster, job.peers]
    return msgspec.json.encode([*joined, acknowledged, granted, alike], order="deterministic")


def shared_id(execution_id: str, tenant: str) -> str:
    """Return the id under which all parties know an execution. Tenants have the same name at each.

    Their names have no colon, so that no id is another one's.
    """
    return f"{tenant}:{execution_id}"


def opened(
    job: Job, settings: Settings, directory: str, tenant: str, replays: int, traceparent: str | None, kept: str
) -> Open:
    """Return what the gateway has to know of a job with peers."""
    envelope = job.envelope
    return Open(
        execution_id=shared_id(envelope.execution_id, tenant),
        directory=directory,
        replays=replays,
        settings=settings.of_gateway(),
        terms=terms(job),
        addresses=job.peers,
        has_spu=envelope.spu_config is not None,
        traceparent=traceparent,
        kept=kept,
        keeps=job.keeps_session,
    )


def _digest(agreed: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(agreed, order="deterministic")).hexdigest()


def starts_elsewhere(job: Job, attempt: int, settings: Settings, *, traced: bool) -> list[Start]:
    """Return one frame per party, into which its node of the cluster puts its own paths and limits."""
    return [
        _frame(job, attempt, settings, party, directory="", scratch="", roots={}, traced=traced)
        for party in job.parties
    ]


def terms(job: Job) -> Terms:
    """Return what the parties' gateways compare."""
    envelope = job.envelope
    return Terms(
        parties=job.parties,
        task_type=job.task_type.name,
        parameters=_digest(job.agreed),
        devices=_digest([_agreed_spu_config(job), _plain(envelope.heu_config)]),
    )


def _start(
    job: Job, attempt: int, settings: Settings, directory: str, rank: int, party: str | None, *, traced: bool
) -> Start:
    scratch = f"{directory}/scratch-{rank}"
    os.mkdir(scratch, 0o700)
    roots = {each: settings.roots_of(each) for each in ([party] if party else job.parties)}
    return _frame(job, attempt, settings, party, directory=directory, scratch=scratch, roots=roots, traced=traced)


def _frame(
    job: Job,
    attempt: int,
    settings: Settings,
    party: str | None,
    *,
    directory: str,
    scratch: str,
    roots: dict[str, list[str]],
    traced: bool,
) -> Start:
    envelope = job.envelope
    return Start(
        execution_id=envelope.execution_id,
        task_id=envelope.task_id,
        subtask_id=envelope.subtask_id,
        attempt=attempt,
        self_party=party,
        parties=job.parties,
        mode=job.mode,
        elsewhere=bool(job.peers),
        carried=bool(job.peers or job.cluster),
        spu_config=_spu_config(job),
        heu_config=_plain(envelope.heu_config),
        task_config=envelope.task_config,
        environment=job.environment,
        mesh_dir=directory,
        scratch_dir=scratch,
        data_roots=roots,
        floors=floors(settings),
        limits=Limits.of(settings),
        log_level=settings.party_log_level,
        max_result_bytes=settings.max_result_bytes,
        traced=traced,
    )


def floors(settings: Settings) -> Floors:
    return Floors(
        input_rows=settings.min_input_rows,
        intersection_rows=settings.min_intersection_rows,
        reveal_empty_intersections=settings.reveal_empty_intersections,
        group_rows=settings.min_group_rows,
        bin_rows=settings.min_bin_rows,
    )


def _spu_config(job: Job) -> dict[str, Any] | None:
    """Return the SPU's configuration with the granted threads, over which the envelope's own value wins."""
    config = _agreed_spu_config(job)
    if config is not None and job.resources.threads:
        config["cluster_def"]["runtime_config"].setdefault("max_concurrency", job.resources.threads.amount)
    return config


def _agreed_spu_config(job: Job) -> dict[str, Any] | None:
    """Return the envelope's SPU configuration with the task type's defaults, the same at all parties."""
    config = _plain(job.envelope.spu_config)
    if config is not None:
        given = config["cluster_def"]["runtime_config"]
        defaults = {"field": DEFAULT_FIELD, **job.spu_defaults}
        if given.get("field", defaults["field"]) != defaults["field"]:  # its bits may be more than fit
            defaults.pop("fxp_fraction_bits", None)
        elif "fxp_fraction_bits" in given:  # which may be more than fit into a smaller field
            defaults["field"] = DEFAULT_FIELD
        config["cluster_def"]["runtime_config"] = {**defaults, **given}
    return config


def _plain(config: msgspec.Struct | None) -> dict[str, Any] | None:
    return None if config is None else msgspec.to_builtins(config)
