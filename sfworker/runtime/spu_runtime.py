"""One party's side of an SPU, with a private set intersection that tells all it knows. Runs in party processes.

`SPURuntime.psi` drops half of the report, and `spu.psi` reveals each party's report to every party.
"""

from __future__ import annotations

from typing import Any

from secretflow.device.device import spu as spu_module
from spu import libspu, psi


class PartyRuntime(spu_module.SPURuntime):  # type: ignore[misc]
    """Takes the place of SecretFlow's class; see `use_party_runtime`."""

    def intersect(
        self,
        *,
        receiver: str,
        keys: list[str],
        keys_unique: bool,
        input_path: str,
        output_path: str,
        protocol: str,
        ecdh_curve: str,
        broadcast_result: bool,
    ) -> dict[str, int]:
        """Intersect with the other party; returns this party's own counts.

        The receiver is the left side of the join: it repeats each of its rows for each of the other's rows of that key.
        """
        rank = [node["party"] for node in self.cluster_def["nodes"]].index(receiver)
        config = psi.PsiExecuteConfig(
            protocol_conf=psi.PsiProtocolConfig(
                protocol=psi.parse_protocol(protocol),
                receiver_rank=rank,
                broadcast_result=broadcast_result,
                ecdh_params=psi.EcdhParams(curve=psi.parse_curve_type(ecdh_curve)),
            ),
            input_params=psi.InputParams(path=input_path, selected_keys=keys, keys_unique=keys_unique),
            output_params=psi.OutputParams(path=output_path, csv_null_rep=""),
            join_conf=psi.ResultJoinConfig(type=psi.ResultJoinType.JOIN_TYPE_INNER_JOIN, left_side_rank=rank),
        )
        # It takes a progress hook too, which these protocols never call.
        report = psi.psi_execute(config, self.link)
        return {
            "intersection_count": report.intersection_count,
            "intersection_unique_count": report.intersection_unique_count,
        }

    def export_share(self, name: str) -> tuple[bytes, list[bytes]]:
        """This party's share of a value, as its description and its chunks."""
        share = self.runtime.get_var(name)
        return share.meta, list(share.share_chunks)

    def import_share(self, meta: bytes, chunks: list[bytes]) -> str:
        """The reverse; returns the name under which the value is known now."""
        share = libspu.Share()
        share.meta, share.share_chunks = meta, chunks
        name: str = self.get_new_share_name()
        self.runtime.set_var(name, share)
        return name


def use_party_runtime() -> None:
    """Make SecretFlow's SPU of this process use `PartyRuntime`; the name it looks up is the one place to replace."""
    spu_module.SPURuntime = PartyRuntime


def use_short_link_retries() -> None:
    """Make the SPU link retry every few milliseconds. Call once per process.

    It waits 1 s, then 3 s, for a peer whose socket is not there yet, and no `link_desc` key changes that.
    """
    stock_fill = spu_module._fill_link_desc_attrs

    def fill(link_desc: Any, tls_opts: Any, desc: Any) -> None:
        stock_fill(link_desc, tls_opts, desc)
        retry = desc.retry_opts
        retry.retry_interval_ms, retry.retry_interval_incr_ms = 1, 1
        retry.max_retry, retry.max_retry_interval_ms = 600, 100

    spu_module._fill_link_desc_attrs = fill
