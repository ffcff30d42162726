"""`psi` and `unbalanced_psi`: which rows do parties have in common? Runs in the daemon and in party processes."""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from sfworker.catalog.base import FLOOR, PartyColumns, PartyPaths, TaskParams, TaskType, register, require_parties
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName

THREE_PARTIES = "PROTOCOL_ECDH_3PC"
PROTOCOLS = {
    "PROTOCOL_RR22": "PROTOCOL_RR22",
    "PROTOCOL_KKRT": "PROTOCOL_KKRT",
    "PROTOCOL_ECDH": "PROTOCOL_ECDH",
    THREE_PARTIES: THREE_PARTIES,
    # As SecretFlow spelled them before 1.0, which is what older web sides send.
    "RR22_FAST_PSI_2PC": "PROTOCOL_RR22",
    "RR22_LOWCOMM_PSI_2PC": "PROTOCOL_RR22",
    "KKRT_PSI_2PC": "PROTOCOL_KKRT",
    "ECDH_PSI_2PC": "PROTOCOL_ECDH",
    "ECDH_PSI_3PC": THREE_PARTIES,
}
"""Accepted names of protocols, and SecretFlow's name of each today."""

ProtocolName = Literal[
    "PROTOCOL_RR22",
    "PROTOCOL_KKRT",
    "PROTOCOL_ECDH",
    "PROTOCOL_ECDH_3PC",
    "RR22_FAST_PSI_2PC",
    "RR22_LOWCOMM_PSI_2PC",
    "KKRT_PSI_2PC",
    "ECDH_PSI_2PC",
    "ECDH_PSI_3PC",
]


class JoinParams(TaskParams, frozen=True, kw_only=True):
    """The parameters that all set intersections share."""

    keys: Annotated[PartyColumns, Meta(description="Key columns of each party; the n-th ones are compared.")]
    input_paths: Annotated[PartyPaths, Meta(description="CSV, Parquet or ORC file of each party, with a header.")]
    output_paths: Annotated[
        PartyPaths,
        Meta(description="File to write at each party; without `broadcast_result` only the receiver's is written."),
    ]
    receiver: Annotated[
        PartyName, Meta(description="The party that gets the result; alone where `broadcast_result` is false.")
    ]
    join_type: Annotated[
        Literal["inner", "left", "full", "difference"],
        Meta(
            description="Rows to write: those with a match (inner), also the left side's without (left), also both "
            "sides' without (full), or only those without (difference)."
        ),
    ] = "inner"
    left_side: Annotated[
        PartyName | None, Meta(description="The left side of the join, whose rows come first. Default: the receiver.")
    ] = None
    broadcast_result: Annotated[
        bool, Meta(description="Whether the other parties get their rows of the result too, aligned.")
    ] = True
    table_keys_duplicated: Annotated[
        bool, Meta(description="Whether a key may occur more than once in a file. If false, one that does is an error.")
    ] = True

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if self.left_side is not None:
            require_taking_part("left_side", self.left_side, parties)
        require_parties("keys", self.keys, parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("output_paths", self.output_paths, self.readers(parties))
        if len({len(self.keys[party]) for party in parties}) != 1:
            raise ParameterValidationError("task_config.keys: the parties need the same number of key columns")
        for party in parties:
            if len(set(self.keys[party])) != len(self.keys[party]):
                raise ParameterValidationError(f"task_config.keys.{party}: names a column twice")
        for party in self.readers(parties):
            if posixpath.normpath(self.input_paths[party]) == posixpath.normpath(self.output_paths[party]):
                raise ParameterValidationError(
                    f"task_config.output_paths.{party}: is the party's input; name another file"
                )

    def readers(self, parties: list[str]) -> list[str]:
        """The parties that get their rows of the result."""
        return [party for party in parties if self.broadcast_result or party == self.receiver]

    def left_first(self, parties: list[str]) -> list[str]:
        """The parties, the left side of the join first."""
        left = self.left_side or self.receiver
        return [left, *(party for party in parties if party != left)]


def require_taking_part(field: str, party: str, parties: list[str]) -> None:
    """Raises ParameterValidationError where `party`, which `field` names, is not one of `parties`."""
    if party not in parties:
        raise ParameterValidationError(
            f"task_config.{field}: names a party that is not in sf_init_config.parties ({', '.join(parties)})"
        )


def require_two(task_type: str, parties: list[str]) -> None:
    """Raises ParameterValidationError where there are not two parties."""
    if len(parties) != 2:
        raise ParameterValidationError(f"sf_init_config.parties: {task_type} joins exactly two parties; name two")


class PsiParams(JoinParams, tag="psi", frozen=True, kw_only=True):
    """Finds the rows of the parties whose keys are equal as text, and writes each party's own columns of them.

    A key with a missing or empty part has no match. `sfworker/wire/README.md`, "Files and cells", says which text a
    number or a date is.

    The files have the same number of rows in the same order: row n of one belongs to row n of the others. First come
    the rows with a match, by key: one that a party has a times and the other b times makes a * b rows, as in a
    database's join. Then, as `join_type` asks for, the left side's rows without a match and the other side's, each in
    the order of its file; beside them the other party has a row of empty cells. Three parties have the inner join only.
    """

    protocol: Annotated[
        ProtocolName,
        Meta(
            description="Of two parties: RR22 is the fastest, ECDH sends least. Of three: PROTOCOL_ECDH_3PC. "
            "Older names are accepted."
        ),
    ] = "PROTOCOL_RR22"
    ecdh_curve: Annotated[
        Literal["CURVE_25519", "CURVE_FOURQ", "CURVE_SM2", "CURVE_SECP256K1"],
        Meta(description="Elliptic curve of the ECDH protocols; others ignore it."),
    ] = "CURVE_FOURQ"
    reveal_rows: Annotated[
        bool, Meta(description="Whether the number of rows of each party's file is in the result, for its readers.")
    ] = False

    def check(self, parties: list[str]) -> None:
        if len(parties) not in {2, 3}:
            raise ParameterValidationError("sf_init_config.parties: psi joins two or three parties; name as many")
        super().check(parties)
        if len(parties) == 2 and self.of_three:
            raise ParameterValidationError(
                "task_config.protocol: PROTOCOL_ECDH_3PC joins exactly three parties; two take PROTOCOL_RR22"
            )
        if len(parties) == 3 and not self.of_three:
            raise ParameterValidationError(
                "task_config.protocol: joins exactly two parties; three take PROTOCOL_ECDH_3PC"
            )
        if self.of_three and self.join_type != "inner":
            raise ParameterValidationError("task_config.join_type: three parties have the inner join only")
        if self.of_three and self.table_keys_duplicated and not self.broadcast_result:
            raise ParameterValidationError(
                "task_config.table_keys_duplicated: of three parties only those that get the result can say how often "
                "a key occurs; set it to false, or broadcast_result to true"
            )

    @property
    def of_three(self) -> bool:
        """Whether the protocol is one of three parties."""
        return PROTOCOLS[self.protocol] == THREE_PARTIES


Server = Annotated[PartyName, Meta(description="The party with the large file; the other one is the client.")]


class UnbalancedPsiCacheParams(TaskParams, tag="unbalanced_psi_cache", frozen=True, kw_only=True):
    """Encrypts the keys of the server's large file and gives them to the client, for any number of `unbalanced_psi`.

    The server's directory holds its secret key and a copy of what is joined, so it is the server's alone.
    """

    server: Server
    keys: Annotated[PartyColumns, Meta(description="Key columns of the server.")]
    input_paths: Annotated[PartyPaths, Meta(description="CSV, Parquet or ORC file of the server, with a header.")]
    cache_path: Annotated[
        PartyPaths, Meta(description="Directory of each party for its part of the cache; replaced if it holds one.")
    ]

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_two("unbalanced_psi_cache", parties)
        require_taking_part("server", self.server, parties)
        require_parties("keys", self.keys, [self.server])
        require_parties("input_paths", self.input_paths, [self.server])
        require_parties("cache_path", self.cache_path, parties)


class UnbalancedPsiParams(JoinParams, tag="unbalanced_psi", frozen=True, kw_only=True):
    """As `psi` of two parties, where the server's file is many times as long as the client's.

    All of the server's keys have to be encrypted, which takes longer than `psi` does. That is done once by
    `unbalanced_psi_cache`; with its cache a join takes about as long as the client's file is.
    """

    server: Server
    cache_path: Annotated[
        PartyPaths,
        Meta(description="Each party's part of a cache of the server's file. Default: its keys are encrypted now."),
    ] = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        require_two("unbalanced_psi", parties)
        super().check(parties)
        require_taking_part("server", self.server, parties)
        if self.cache_path:
            require_parties("cache_path", self.cache_path, parties)


class JoinResult(Struct, frozen=True, kw_only=True):
    """The result of a set intersection."""

    intersection_count: int
    """Rows of the inner join."""
    row_count: int | msgspec.UnsetType = msgspec.UNSET
    """Rows in each output file, where `join_type` is not `inner`."""
    output_paths: dict[str, str]
    """The files that were written, as the envelope spelled them."""
    parties: list[str]
    warnings: list[str]
    """A sentence where no row has a match. What a reader's own keys look like is then in its own log."""


class PsiResult(JoinResult, frozen=True, kw_only=True):
    """The result of `psi`."""

    protocol: str
    input_rows: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    """Rows of each party's file, where `reveal_rows` asks for them."""


class UnbalancedPsiCacheResult(Struct, frozen=True, kw_only=True):
    """The result of `unbalanced_psi_cache`."""

    cache_id: str
    """The same in every party's part of the cache."""
    cache_path: dict[str, str]


_READERS = (
    "the receiver learns which of its rows are in the intersection and how often each of their keys occurs at the "
    "others",
    "with broadcast_result (default) the other parties learn the same about their rows",
    "with join_type left, full or difference, who gets the result learns how many of the other's rows in it have no "
    "match",
    "readers of the result learn the number of rows in the intersection and in the output files",
    "where fewer keys are in the intersection than SFWORKER_MIN_INTERSECTION_ROWS, or none and "
    "SFWORKER_REVEAL_EMPTY_INTERSECTIONS is false, nothing is written, and all that readers of the error learn is that",
    "where no row, or too few, have a match, the log of each party that gets the result says of its own keys, and of "
    "no other's, the type, the shortest and longest, and whether some have blanks at an end, leading zeros and the "
    "like",
    FLOOR,
)
PSI = register(
    TaskType(
        name="psi",
        summary="Joins the rows of two or three parties by their keys (private set intersection)",
        params=PsiParams,
        result=PsiResult,
        devices=frozenset({"spu"}),
        disclosures=(
            "each party learns how many keys and rows the others' files have and, of two parties, how many keys occur "
            "twice there, three times and so on; nothing else about keys outside the intersection",
            "with PROTOCOL_ECDH_3PC the receiver and the party after it by name learn how many keys the two other than "
            "the receiver have in common",
            *_READERS,
            "with reveal_rows readers of the result learn the number of rows of each party's file, too",
        ),
    )
)
_SERVERS_KEYS = (
    "the client learns how many keys the server's file has and how often keys occur there, without knowing which"
)
UNBALANCED_PSI_CACHE = register(
    TaskType(
        name="unbalanced_psi_cache",
        summary="Prepares a large file for any number of unbalanced_psi",
        params=UnbalancedPsiCacheParams,
        result=UnbalancedPsiCacheResult,
        devices=frozenset({"spu"}),
        disclosures=(_SERVERS_KEYS, "both parties learn the cache's id, which is random", FLOOR),
    )
)
UNBALANCED_PSI = register(
    TaskType(
        name="unbalanced_psi",
        summary="Joins a small file with another party's large one (unbalanced private set intersection)",
        params=UnbalancedPsiParams,
        result=JoinResult,
        devices=frozenset({"spu"}),
        disclosures=(
            _SERVERS_KEYS,
            "the server learns how many keys the client's file has and, where it gets the result, how often keys occur "
            "there",
            "the client learns how many keys are in the intersection even where only the server gets the result",
            "with cache_path both parties learn the cache's id, and the client which of the server's keys are the same "
            "in several joins with one cache",
            *_READERS,
        ),
    )
)
