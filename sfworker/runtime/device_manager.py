"""The devices of one execution: a PYU per party, and SPU and HEU where configured. Runs in the party process."""

from __future__ import annotations

from typing import Any

import secretflow
import spu

from sfworker.errors import DeviceInitializationError
from sfworker.runtime.spu_runtime import use_compiled_again, use_party_runtime, use_short_link_retries
from sfworker.wire.frames import Start

# The daemon owns every deadline and ends a mesh whose peer died, so the link must not give up on a peer that is
# merely slow (reading 10 million rows, say): its own limit is two minutes.
# A "single" connection that failed because its peer was not listening yet is looked at again every 100 ms only.
_LOCAL_LINK = {
    "recv_timeout_ms": 7 * 86_400_000,
    "http_timeout_ms": 600_000,
    "connect_retry_times": 30_000,
    "connect_retry_interval_ms": 2,
    "brpc_channel_connection_type": "pooled",
}
_LOG_LEVELS = {"DEBUG": "DEBUG", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR", "CRITICAL": "ERROR"}


class DeviceManager:
    """Makes the devices that a job uses."""

    def initialize_devices(self, start: Start) -> dict[str, Any]:
        """A PYU under each party's name, and `spu` and `heu` where configured.

        Raises DeviceInitializationError naming the part of the envelope that the device was made from.
        """
        devices: dict[str, Any] = {party: secretflow.PYU(party) for party in start.parties}
        if start.spu_config is not None:
            devices["spu"] = self._make("spu_config", self._spu, start)
        if start.heu_config is not None:
            devices["heu"] = self._make("heu_config", self._heu, start)
        return devices

    def _make(self, field: str, make: Any, start: Start) -> Any:
        try:
            device = make(start)
            _wait_for_own_part(device, start.self_party)
        except Exception as error:  # the config is passed through, and upstream raises every kind of exception for it
            raise DeviceInitializationError(
                f"{field}: the device could not be made from it ({type(error).__name__}); "
                f"check it against SecretFlow's documentation"
            ) from error
        return device

    def _spu(self, start: Start) -> Any:
        config = start.spu_config or {}
        cluster_def = dict(config["cluster_def"])
        link = dict(config.get("link_desc") or {})
        if start.mode == "mesh":
            named = {node["party"] for node in cluster_def.get("nodes") or []} or set(start.parties)
            cluster_def["nodes"] = [
                {"party": party, "address": f"unix:{start.mesh_dir}/spu-{rank}.sock"}
                for rank, party in enumerate(start.parties)
                if party in named
            ]
            link = _LOCAL_LINK | link
            use_short_link_retries()
        use_party_runtime()
        use_compiled_again()
        options = spu.logging.LogOptions()
        options.log_level = getattr(spu.logging.LogLevel, _LOG_LEVELS[start.log_level])
        return secretflow.SPU(cluster_def, link_desc=link or None, log_options=options)

    def _heu(self, start: Start) -> Any:
        runtime = ((start.spu_config or {}).get("cluster_def") or {}).get("runtime_config") or {}
        return secretflow.HEU(start.heu_config, runtime.get("field", "FM128"))


def _wait_for_own_part(device: Any, party: str | None) -> None:
    """Raise what went wrong with this party's part of a device, which is made in another thread.

    Nothing is sent.
    """
    parts = device.actors if hasattr(device, "actors") else {p: device.get_participant(p) for p in _heu_parties(device)}
    if party in parts:
        parts[party]._cls_fed_obj.get_object()


def _heu_parties(heu: Any) -> list[str]:
    return [*heu.evaluator_names(), heu.sk_keeper_name()]
