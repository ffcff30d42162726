"""`psi`: which rows do two parties have in common? Runs in the daemon and in party processes."""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

from msgspec import Meta, Struct

from sfworker.catalog.base import PartyColumns, PartyPaths, TaskParams, TaskType, register, require_parties
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName

PROTOCOLS = {
    "PROTOCOL_RR22": "PROTOCOL_RR22",
    "PROTOCOL_KKRT": "PROTOCOL_KKRT",
    "PROTOCOL_ECDH": "PROTOCOL_ECDH",
    # As SecretFlow spelled them before 1.0, which is what older web sides send.
    "RR22_FAST_PSI_2PC": "PROTOCOL_RR22",
    "RR22_LOWCOMM_PSI_2PC": "PROTOCOL_RR22",
    "KKRT_PSI_2PC": "PROTOCOL_KKRT",
    "ECDH_PSI_2PC": "PROTOCOL_ECDH",
}
"""Accepted names of protocols, and SecretFlow's name of each today."""

ProtocolName = Literal[
    "PROTOCOL_RR22",
    "PROTOCOL_KKRT",
    "PROTOCOL_ECDH",
    "RR22_FAST_PSI_2PC",
    "RR22_LOWCOMM_PSI_2PC",
    "KKRT_PSI_2PC",
    "ECDH_PSI_2PC",
]


class PsiParams(TaskParams, tag="psi", frozen=True, kw_only=True):
    """Finds the rows of two parties whose keys are equal as text, and writes each party's own columns of them.

    The two files have the same number of rows in the same order, sorted by key: row n of one belongs to row n of the
    other. A key that one party has a times and the other b times makes a * b rows, as in a database's inner join.
    """

    keys: Annotated[PartyColumns, Meta(description="Key columns of each party; the n-th ones are compared.")]
    input_paths: Annotated[PartyPaths, Meta(description="CSV or Parquet file of each party, with a header.")]
    output_paths: Annotated[
        PartyPaths,
        Meta(description="File to write at each party; without `broadcast_result` only the receiver's is written."),
    ]
    receiver: Annotated[PartyName, Meta(description="The party that learns the result.")]
    protocol: Annotated[
        ProtocolName, Meta(description="RR22 is the fastest; ECDH sends least. Older names are accepted.")
    ] = "PROTOCOL_RR22"
    ecdh_curve: Annotated[
        Literal["CURVE_25519", "CURVE_FOURQ", "CURVE_SM2", "CURVE_SECP256K1"],
        Meta(description="Elliptic curve of PROTOCOL_ECDH; other protocols ignore it."),
    ] = "CURVE_FOURQ"
    broadcast_result: Annotated[
        bool, Meta(description="Whether the other party gets its rows of the intersection too, aligned.")
    ] = True
    table_keys_duplicated: Annotated[
        bool, Meta(description="Whether a key may occur more than once in a file. If false, one that does is an error.")
    ] = True

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if len(parties) != 2:
            raise ParameterValidationError("sf_init_config.parties: psi joins exactly two parties; name two")
        require_parties("keys", self.keys, parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("output_paths", self.output_paths, self.readers(parties))
        if len({len(self.keys[party]) for party in parties}) != 1:
            raise ParameterValidationError("task_config.keys: both parties need the same number of key columns")
        for party in parties:
            if len(set(self.keys[party])) != len(self.keys[party]):
                raise ParameterValidationError(f"task_config.keys.{party}: names a column twice")
        for party in self.readers(parties):
            if posixpath.normpath(self.input_paths[party]) == posixpath.normpath(self.output_paths[party]):
                raise ParameterValidationError(
                    f"task_config.output_paths.{party}: is the party's input; name another file"
                )

    def readers(self, parties: list[str]) -> list[str]:
        """The parties that get the intersection."""
        return [party for party in parties if self.broadcast_result or party == self.receiver]


class PsiResult(Struct, frozen=True, kw_only=True):
    """What `psi` answers."""

    intersection_count: int
    """Rows in each output file."""
    output_paths: dict[str, str]
    """The files that were written, as the envelope spelled them."""
    protocol: str
    parties: list[str]


PSI = register(
    TaskType(
        name="psi",
        summary="Finds the rows that two parties have in common (private set intersection)",
        params=PsiParams,
        result=PsiResult,
        devices=frozenset({"spu"}),
        disclosures=(
            "each party learns how many keys the other's file has, nothing about keys outside the intersection",
            "the receiver learns which of its rows are in the intersection and how often each key occurs at the other",
            "with broadcast_result (default) the other party learns the same about its rows",
            "readers of the result learn the number of rows in the intersection",
        ),
    )
)
