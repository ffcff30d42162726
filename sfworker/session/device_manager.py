"""Makes the devices of one execution, a PYU per party and SPU and HEU where configured. Runs in the party process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import secretflow
import spu

from sfworker.errors import DeviceInitializationError, ParameterValidationError
from sfworker.session.arithmetic import resolved
from sfworker.session.programs import Kept, use_compiled_again
from sfworker.session.spu_runtime import (
    use_no_cached_variables,
    use_party_runtime,
    use_swift_links,
)
from sfworker.wire.devices import DEFAULT_FIELD, acknowledges
from sfworker.wire.frames import Start

_LINK = {
    # The daemon owns every deadline and ends a mesh whose peer died, so the link must not give up on a peer that is
    # merely slow (reading 10 million rows, say). The link's own limit is two minutes.
    "recv_timeout_ms": 7 * 86_400_000,
    "http_timeout_ms": 600_000,
    # The default interval of 1 s is most of a fresh session's delay.
    "connect_retry_times": 30_000,
    "connect_retry_interval_ms": 2,
    # A "single" connection that failed because its peer was not listening yet is looked at again every 100 ms only.
    "brpc_channel_connection_type": "pooled",
}
# Gateways always listen, and each connection through them is a TLS handshake. A pool of CHEETAH's grows to hundreds.
_LINK_CARRIED = _LINK | {"brpc_channel_connection_type": "single"}
_LOG_LEVELS = {"DEBUG": "DEBUG", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR", "CRITICAL": "ERROR"}


class DeviceManager:
    """Makes the devices of the envelope and the variants of them that a job asks for."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._spus: dict[str, Any] = {}
        use_party_runtime(start.floors)
        use_compiled_again(Kept(start.programs_dir, start.programs_bytes) if start.programs_dir else None)
        use_no_cached_variables()
        use_swift_links(acknowledges(start.task_config.get("task_type"), start.spu_config))

    def begin(self, start: Start) -> None:
        """Serve another execution of the same parties and devices. Its runtime_config may have other defaults."""
        self._start = start

    @property
    def spus(self) -> list[Any]:
        return list(self._spus.values())

    def initialize_devices(self) -> dict[str, Any]:
        """Return a PYU under each party's name, and `spu` and `heu` where configured.

        An SPU that an earlier execution used is the same again; a HEU has a new key for each execution. Raises
        DeviceInitializationError naming the part of the envelope that the device was made from.
        """
        devices: dict[str, Any] = {party: secretflow.PYU(party) for party in self._start.parties}
        if self._start.spu_config is not None:
            devices["spu"] = self.spu({})
        if self._start.heu_config is not None and "schema" not in self._start.heu_config:  # the flat form names nobody
            devices["heu"] = self._make("heu_config", self._heu)
        return devices

    def spu(self, changes: dict[str, Any]) -> Any:
        """Return the envelope's SPU with `changes` to its runtime_config, the same one for the same configuration.

        Raises ParameterValidationError where the envelope has none, or none with that configuration can be made.
        """
        if self._start.spu_config is None:
            raise ParameterValidationError("spu_config: required here and missing; add it to the envelope")
        configured = self._start.spu_config["cluster_def"]["runtime_config"]
        runtime_config = resolved({**configured, **changes})
        key = msgspec.json.encode(runtime_config, order="deterministic").decode()
        if key not in self._spus:
            self._spus[key] = self._make("spu_config", partial(self._spu, runtime_config, len(self._spus)))
        return self._spus[key]

    def heu(self, sk_keeper: str, evaluators: list[str], field_type: Any, fxp_fraction_bits: int) -> Any:
        """Return a HEU with the envelope's scheme and key size, for the parties given.

        Raises ParameterValidationError where the envelope has none.
        """
        if self._start.heu_config is None:
            raise ParameterValidationError("heu_config: required here and missing; add it to the envelope")
        given = self._start.heu_config
        config = {
            "mode": given.get("mode", "PHEU"),
            "he_parameters": given.get("he_parameters") or _he_parameters(given),
            "sk_keeper": {"party": sk_keeper},
            "evaluators": [{"party": party} for party in evaluators],
        }
        return self._make("heu_config", partial(secretflow.HEU, config, field_type, fxp_fraction_bits))

    def _make(self, field: str, make: Callable[[], Any]) -> Any:
        try:
            device = make()
            _wait_for_own_part(device, self._start.self_party)
        except Exception as error:  # the config is passed through, and upstream raises every kind of exception for it
            raise DeviceInitializationError(
                f"{field}: the device could not be made from it ({type(error).__name__}); "
                f"check it against SecretFlow's documentation"
            ) from error
        return device

    def _spu(self, runtime_config: dict[str, Any], number: int) -> Any:
        start = self._start
        config = start.spu_config or {}
        cluster_def = {**config["cluster_def"], "runtime_config": runtime_config}
        link = dict(config.get("link_desc") or {})
        named = {node["party"] for node in cluster_def.get("nodes") or []} or set(start.parties)
        cluster_def["nodes"] = [
            {"party": party, "address": f"unix:{start.mesh_dir}/spu-{number}-{rank}.sock"}
            for rank, party in enumerate(start.parties)
            if party in named
        ]
        link = (_LINK_CARRIED if start.carried else _LINK) | link
        options = spu.logging.LogOptions()
        # Beside the sockets, as the working directory is the execution's and the SPU may be the next one's, too.
        options.system_log_path = f"{start.mesh_dir}/spu-{start.self_party}.log"
        options.log_level = getattr(spu.logging.LogLevel, _LOG_LEVELS[start.log_level])
        return secretflow.SPU(cluster_def, link_desc=link or None, log_options=options)

    def _heu(self) -> Any:
        runtime = ((self._start.spu_config or {}).get("cluster_def") or {}).get("runtime_config") or {}
        return secretflow.HEU(self._start.heu_config, runtime.get("field", DEFAULT_FIELD))


def _he_parameters(flat: dict[str, Any]) -> dict[str, Any]:
    """Convert the flat form that Kuscia writes, which is `mode`, `schema` and `key_size` without parties."""
    return {"schema": flat.get("schema", "ou"), "key_pair": {"generate": {"bit_size": flat.get("key_size", 2048)}}}


def _wait_for_own_part(device: Any, party: str | None) -> None:
    """Wait for this party's part of a device, which is made in another thread, and raise its exception.

    Nothing is sent.
    """
    parts = device.actors if hasattr(device, "actors") else {p: device.get_participant(p) for p in _heu_parties(device)}
    if party in parts:
        parts[party]._cls_fed_obj.get_object()


def _heu_parties(heu: Any) -> list[str]:
    return [*heu.evaluator_names(), heu.sk_keeper_name()]
