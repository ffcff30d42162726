"""Bounds the addresses of a cluster that an envelope names by those that the worker's settings list."""

from __future__ import annotations

from sfworker.errors import ParameterValidationError
from sfworker.settings import Settings
from sfworker.wire.envelope import ClusterConfig, Envelope

_FIELD = "sf_init_config.cluster_config"
_NODES = "spu_config.cluster_def.nodes"


def check_cluster(cluster: ClusterConfig, envelope: Envelope, settings: Settings) -> None:
    """Raises ParameterValidationError where the session would bind or connect to what no setting lists."""
    if not (settings.party and settings.peers):
        raise ParameterValidationError(
            f"{_FIELD}: this worker joins no cluster; name its party in SFWORKER_PARTY and every party's addresses in "
            f"SFWORKER_PEERS, or use address `local`"
        )
    if cluster.self_party != settings.party:
        raise ParameterValidationError(f"{_FIELD}.self_party: this worker is {settings.party} (SFWORKER_PARTY)")
    for party, one in cluster.parties.items():
        _check(f"{_FIELD}.parties.{party}", party, one.address, "address", settings)
        if party == settings.party:
            _check_own(f"{_FIELD}.parties.{party}", one.address, one.listen_addr, "listen_addr", settings)
    for number, node in enumerate(envelope.spu_config.cluster_def.nodes if envelope.spu_config else []):
        _check(f"{_NODES}[{number}]", node.party, node.address, "address", settings)
        if node.party == settings.party:
            _check_own(f"{_NODES}[{number}]", node.address, node.listen_address, "listen_address", settings)


def _check(where: str, party: str, address: str, name: str, settings: Settings) -> None:
    if address not in settings.addresses_of(party):
        raise ParameterValidationError(
            f"{where}.{name}: is none of this party's in the worker's settings; name one of those, or add it to "
            f"SFWORKER_PEERS"
        )


def _check_own(where: str, address: str, listen: str | None, name: str, settings: Settings) -> None:
    """Check where the worker's own party would listen: at `listen`, or without it at its address."""
    allowed = settings.listen or settings.addresses_of(settings.party)
    if (listen or address) not in allowed:
        raise ParameterValidationError(
            f"{where}.{name}: this worker does not listen there; name one of its own addresses, or add it to "
            f"SFWORKER_LISTEN"
        )
