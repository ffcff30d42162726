"""A job: an envelope that was checked against the catalogue and the worker's settings. Runs in the daemon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import UnsetType

from sfworker.catalog.base import TaskType, find, validate
from sfworker.catalog.resources import Resources, granted
from sfworker.errors import ExpiredError, ParameterValidationError
from sfworker.settings import Settings, variable
from sfworker.wire.devices import FIELDS, PROTOCOLS
from sfworker.wire.envelope import (
    Envelope,
    SpuConfig,
    decode_envelope,
    expired,
)

Mode = Literal["none", "mesh"]
_INSECURE = {"REF2K"}  # it keeps no secrets at all
_LINK_ALONE = {"psi", "unbalanced_psi", "unbalanced_psi_cache"}
"""Task types that use the SPU's link and none of its arithmetic."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ALWAYS_SET = "EXECUTION_ID"
"""Variable that is the execution's id in each party process, whatever the envelope says."""
_RUNTIME = "spu_config.cluster_def.runtime_config"


@dataclass(frozen=True, kw_only=True)
class Job:
    """An execution that may be started."""

    envelope: Envelope
    task_type: TaskType
    parties: list[str]
    mode: Mode
    """A mesh joins the parties, in which gateways stand for those that are not here, or nothing does."""
    self_party: str | None
    """This worker's party where others are elsewhere."""
    peers: dict[str, str]
    """Addresses of the gateways of the parties that are elsewhere."""
    cluster: str
    """Address of the Ray cluster on whose nodes the parties are, `local` for this worker's own; empty: none."""
    environment: dict[str, str]
    """Variables that the envelope adds to the environment of its processes on a cluster."""
    keeps_session: bool
    """True where its session may be another job's afterwards, or was one's before."""
    spu_defaults: Mapping[str, Any]
    """Defaults of the SPU's runtime_config, of its own task type or of the one that has trained its model."""
    agreed: Any
    """Parameters that have to be the same at all parties."""
    resources: Resources
    disclosures: list[str]
    """Sentences that say which party learns more than the result, and what."""
    warnings: list[str]
    """Parts of the envelope that this worker does not use."""


def require_time_left(envelope: Envelope, now: float) -> None:
    """`now` is in Unix seconds. Raises ExpiredError, or ParameterValidationError where `expires_at` is no time."""
    if expired(envelope.options, now):
        raise ExpiredError("options.expires_at: had passed before a worker was free; send the job again")


def accept(data: bytes, settings: Settings, now: float) -> Job:
    """The job in an envelope.

    `now` is in Unix seconds. Raises a SecretFlowTaskError that names the field and the remedy: EnvelopeError,
    ParameterValidationError, TaskTypeNotFoundError or ExpiredError.
    """
    unread: list[str] = []
    envelope = decode_envelope(data, settings.max_envelope_bytes, unread)
    require_time_left(envelope, now)
    parties = _parties(envelope, settings)
    peers = _peers(envelope, settings)
    task_type, params = validate(envelope.task_config, parties)
    cluster = _cluster(envelope, task_type, parties, settings)
    for device in sorted(task_type.devices):
        if getattr(envelope, f"{device}_config") is None:
            raise ParameterValidationError(f"{device}_config: required by task type {task_type.name}")
    if envelope.spu_config is not None:
        _check_spu(envelope.spu_config, parties, settings)
    mode: Mode = "mesh" if task_type.session else "none"
    unmet = _unmet(envelope, mode, cluster, settings)
    return Job(
        envelope=envelope,
        task_type=task_type,
        parties=parties,
        mode=mode,
        self_party=settings.party if peers else None,
        cluster=cluster,
        environment=_environment(envelope, settings) if cluster else {},
        peers=peers,
        keeps_session=envelope.options.session == "reuse" and not _why_fresh(mode, settings),
        spu_defaults=find(params.computes_as()).spu_defaults,
        agreed=params.agreed() if peers else None,
        resources=granted(envelope.options, settings),
        disclosures=[*task_type.disclosures, *(_dealt(envelope, task_type, parties, settings) if peers else [])],
        warnings=[*(f"{path}: has no effect in this worker" for path in unread), *unmet],
    )


def _unmet(envelope: Envelope, mode: Mode, cluster: str, settings: Settings) -> list[str]:
    found = []
    if mode == "none":
        for name in ("spu_config", "heu_config"):
            if getattr(envelope, name) is not None:
                found.append(f"{name}: has no effect for a task type that joins no session")
    if envelope.sf_init_config.runtime_env and not cluster:
        found.append("sf_init_config.runtime_env: has no effect in this worker")
    if envelope.options.session == "reuse" and (why := _why_fresh(mode, settings)):
        found.append(f"options.session: has no effect {why}")
    return found


def _why_fresh(mode: Mode, settings: Settings) -> str:
    """Say why a session that might be kept is not, in the words behind "has no effect"."""
    if not settings.session_jobs:
        return f"in this worker, whose sessions are all fresh ({variable('session_jobs')})"
    return "for a task type that joins no session" if mode == "none" else ""


def _parties(envelope: Envelope, settings: Settings) -> list[str]:
    config = envelope.sf_init_config
    if config.cluster_config is not None:
        parties = list(config.cluster_config.parties)
        if config.cluster_config.self_party not in parties:
            raise ParameterValidationError(
                "sf_init_config.cluster_config.self_party: names a party that is not in cluster_config.parties"
            )
        return parties
    parties = config.parties or settings.party_list()
    if len(set(parties)) != len(parties):
        raise ParameterValidationError("sf_init_config.parties: names a party twice")
    return parties


def _peers(envelope: Envelope, settings: Settings) -> dict[str, str]:
    """Return the addresses of the parties elsewhere, which the operator's settings say and an envelope only repeats."""
    config = envelope.sf_init_config.cluster_config
    if config is None:
        return {}
    field = "sf_init_config.cluster_config"
    if not settings.has_gateway():
        needed = ", ".join(variable(name) for name in ("party", "peers", "tls_certificate"))
        raise ParameterValidationError(f"{field}: this worker takes no jobs with parties elsewhere ({needed})")
    if config.self_party != settings.party:
        raise ParameterValidationError(
            f"{field}.self_party: this worker computes for {settings.party} alone ({variable('party')})"
        )
    others = {party: one for party, one in config.parties.items() if party != settings.party}
    if not others:
        raise ParameterValidationError(f"{field}.parties: names no other party; use address `local`")
    for party, one in others.items():
        if party not in settings.peers:
            raise ParameterValidationError(
                f"{field}.parties: names a party that this worker has no address of ({variable('peers')})"
            )
        if one.address and one.address != settings.peers[party]:
            raise ParameterValidationError(
                f"{field}.parties.{party}.address: is not that of this worker's settings ({variable('peers')}); leave "
                "it out"
            )
    return {party: settings.peers[party] for party in others}


def _dealt(envelope: Envelope, task_type: TaskType, job_parties: list[str], settings: Settings) -> list[str]:
    """Return what SEMI2K's dealer could learn, who is the first party. Raises ParameterValidationError.

    On one host nobody is apart from anybody, but between machines the operator says whom to trust so.
    """
    if envelope.spu_config is None or task_type.name in _LINK_ALONE:
        return []
    cluster = envelope.spu_config.cluster_def
    if cluster.runtime_config.protocol != "SEMI2K":
        return []
    named = {node.party for node in cluster.nodes} or set(job_parties)
    dealer = next(party for party in job_parties if party in named)
    if dealer != settings.trusted_dealer:
        raise ParameterValidationError(
            f"{_RUNTIME}.protocol: SEMI2K lets {dealer}, the first of cluster_config.parties, know all correlated "
            f"randomness, and this worker trusts {settings.trusted_dealer or 'nobody'} so "
            f"({variable('trusted_dealer')}); take CHEETAH for two parties, ABY3 for three, or another order"
        )
    return [f"{dealer} deals the correlated randomness of SEMI2K, with which it could work out what the others share"]


def _cluster(envelope: Envelope, task_type: TaskType, parties: list[str], settings: Settings) -> str:
    config = envelope.sf_init_config
    if config.cluster_config is not None or not task_type.session:
        return ""
    address = config.address or settings.address
    if address == "local" and config.engine == "mesh":
        return ""
    if address == "local" and address not in settings.ray_addresses:
        raise ParameterValidationError(
            f"sf_init_config.engine: this worker has no Ray of its own (`local` in {variable('ray_addresses')}); leave "
            f"it out, or name an address"
        )
    if address == "local" and (unknown := set(parties) - set(settings.own_ray_parties())):
        raise ParameterValidationError(
            f"sf_init_config.parties: {min(unknown)} has no place on this worker's own Ray; add it to "
            f"{variable('parties')}"
        )
    if address not in settings.ray_addresses:
        raise ParameterValidationError(
            f"sf_init_config.address: is no Ray cluster that this worker may use ({variable('ray_addresses')}); use "
            f"`local`, or cluster_config for parties on machines of their own"
        )
    return address


def _environment(envelope: Envelope, settings: Settings) -> dict[str, str]:
    """Return the variables that the envelope sets.

    Raises ParameterValidationError for what the operator lets nobody set.
    """
    field = "sf_init_config.runtime_env"
    given = envelope.sf_init_config.runtime_env or {}
    for name in given:
        if name != "env_vars":
            raise ParameterValidationError(
                f"{field}: only env_vars are taken; what else its parties need, the nodes' operator installs"
            )
    variables = given.get("env_vars") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise ParameterValidationError(f"{field}.env_vars: has to be an object of texts")
    for name, value in variables.items():
        if name != _ALWAYS_SET and name not in settings.ray_environment:
            told = f".{name}" if _NAME.fullmatch(name) else ""
            raise ParameterValidationError(
                f"{field}.env_vars{told}: this worker's operator lets no envelope set it "
                f"({variable('ray_environment')}); leave it out"
            )
        if "\0" in value:
            raise ParameterValidationError(f"{field}.env_vars: holds a NUL character")
    return {name: value for name, value in variables.items() if name != _ALWAYS_SET}


def _check_spu(config: SpuConfig, parties: list[str], settings: Settings) -> None:
    runtime = config.cluster_def.runtime_config
    given = ", ".join(parties)
    nodes = [node.party for node in config.cluster_def.nodes]
    for party in nodes:
        if party not in parties:
            raise ParameterValidationError(
                f"spu_config.cluster_def.nodes: names a party that is not in sf_init_config.parties ({given})"
            )
    protocol = runtime.protocol
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise ParameterValidationError(f"{_RUNTIME}.protocol: one of {', '.join(sorted(PROTOCOLS))}")
    if protocol in _INSECURE and not settings.allow_insecure_protocols:
        raise ParameterValidationError(
            f"{_RUNTIME}.protocol: {protocol} keeps no secrets; use SEMI2K, or set SFWORKER_ALLOW_INSECURE_PROTOCOLS"
        )
    if not isinstance(runtime.field, UnsetType) and runtime.field not in FIELDS:
        raise ParameterValidationError(f"{_RUNTIME}.field: one of {', '.join(sorted(FIELDS))}")
    fewest, most = PROTOCOLS[protocol]
    count = len(set(nodes)) or len(parties)
    if not fewest <= count <= most:
        needed = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
        raise ParameterValidationError(f"{_RUNTIME}.protocol: {protocol} needs {needed} parties, {count} are given")
