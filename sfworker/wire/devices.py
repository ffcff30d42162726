"""Lists what an envelope may say about SPU, HEU and their links. Runs in the daemon.

Each field is here because it was looked at: it changes arithmetic, speed or patience. What writes shares or values to
disk, fixes randomness, names files, servers or keys, or encrypts nothing, is no field, and so an error.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError

# How many parties each protocol computes with: fewest and most.
PROTOCOLS = {"REF2K": (2, 16), "SEMI2K": (2, 16), "ABY3": (3, 3), "CHEETAH": (2, 2)}
FIELDS = frozenset({"FM32", "FM64", "FM128"})
DEFAULT_FIELD = "FM128"
# SecretFlow's enums, whose members count from 1, and every spelling of each that is taken.
_MEMBERS = {"protocol": ("REF2K", "SEMI2K", "ABY3", "CHEETAH"), "field": ("FM32", "FM64", "FM128")}
_SPELLINGS: dict[str, list[str | int]] = {
    name: [*members, *map(str.lower, members), *range(1, len(members) + 1)] for name, members in _MEMBERS.items()
}
_IN_STEP = {"ss_lr", "ss_glm", "ss_xgb", "vif", "p_value", "pearson_correlation"}
"""Task types whose parties answer each other's messages, so that none runs ahead and has to be told what was read."""
_WITHOUT_TRANSFERS = {"SEMI2K", "ABY3"}
_UPPER = re.compile("[A-Z]")
_Party = Annotated[str, Meta(min_length=1, max_length=64)]
_Flag: TypeAlias = bool | UnsetType
_Terms: TypeAlias = Annotated[int, Meta(ge=0, le=64)] | UnsetType
_Milliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=30 * 86_400_000)] | UnsetType
_Schema = Literal[
    "ou",
    "okamoto-uchiyama",
    "paillier",
    "paillier_zahlen",
    "zpaillier",
    "fpaillier",
    "ic-paillier",
    "dgk",
    "damgard-jurik",
    "elgamal",
]
_KeySize = Annotated[int, Meta(ge=2048, le=8192, description="Bits of the key.")]


class CheetahConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of CHEETAH alone."""

    disable_matmul_pack: _Flag = UNSET
    enable_mul_lsb_error: _Flag = UNSET
    ot_kind: Literal["YACL_Ferret", "YACL_Softspoken", "EMP_Ferret", 0, 1, 2] | UnsetType = UNSET


class RuntimeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """SPU's own options; those of arithmetic have the field's or the task type's defaults."""

    protocol: Annotated[str | int, Meta(extra_json_schema={"enum": _SPELLINGS["protocol"]})]
    field: Annotated[str | int | UnsetType, Meta(extra_json_schema={"enum": _SPELLINGS["field"]})] = UNSET
    fxp_fraction_bits: Annotated[int, Meta(ge=0, le=62)] | UnsetType = UNSET
    fxp_div_goldschmidt_iters: _Terms = UNSET
    fxp_exp_mode: Literal["EXP_DEFAULT", "EXP_PADE", "EXP_TAYLOR", "EXP_PRIME", 0, 1, 2, 3] | UnsetType = UNSET
    fxp_exp_iters: _Terms = UNSET
    fxp_log_mode: Literal["LOG_DEFAULT", "LOG_PADE", "LOG_NEWTON", "LOG_MINMAX", 0, 1, 2, 3] | UnsetType = UNSET
    fxp_log_iters: _Terms = UNSET
    fxp_log_orders: _Terms = UNSET
    sigmoid_mode: Literal["SIGMOID_DEFAULT", "SIGMOID_MM1", "SIGMOID_SEG3", "SIGMOID_REAL", 0, 1, 2, 3] | UnsetType = (
        UNSET
    )
    sine_cosine_iters: _Terms = UNSET
    sort_method: Literal["SORT_DEFAULT", "SORT_RADIX", "SORT_QUICK", "SORT_NETWORK", 0, 1, 2, 3] | UnsetType = UNSET
    quick_sort_threshold: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    enable_lower_accuracy_rsqrt: _Flag = UNSET
    trunc_allow_msb_error: _Flag = UNSET
    beaver_type: Literal["TrustedFirstParty", "MultiParty", 0, 2] | UnsetType = UNSET
    cheetah_2pc_config: CheetahConfig | UnsetType = UNSET
    max_concurrency: Annotated[int, Meta(ge=0, le=1024)] | UnsetType = UNSET
    share_max_chunk_size: Annotated[int, Meta(ge=1 << 16, le=1 << 27)] | UnsetType = UNSET
    experimental_disable_mmul_split: _Flag = UNSET
    experimental_disable_vectorization: _Flag = UNSET
    experimental_enable_exp_prime: _Flag = UNSET
    experimental_exp_prime_offset: Annotated[int, Meta(ge=0, le=64)] | UnsetType = UNSET
    experimental_exp_prime_disable_lower_bound: _Flag = UNSET
    experimental_exp_prime_enable_upper_bound: _Flag = UNSET


class LinkDesc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Patience and width of the SPU's links."""

    connect_retry_times: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    connect_retry_interval_ms: _Milliseconds = UNSET
    recv_timeout_ms: _Milliseconds = UNSET
    http_timeout_ms: _Milliseconds = UNSET
    http_max_payload_size: Annotated[int, Meta(ge=1 << 10, le=1 << 27)] | UnsetType = UNSET
    throttle_window_size: Annotated[int, Meta(ge=0, le=1 << 20)] | UnsetType = UNSET
    brpc_channel_protocol: Literal["baidu_std", "http", "h2"] | UnsetType = UNSET
    brpc_channel_connection_type: Literal["", "single", "pooled", "short"] | UnsetType = UNSET


class HeuParty(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party of a HEU."""

    party: _Party


class KeyPairSize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the generation of keys."""

    bit_size: _KeySize = 2048


class KeyPair(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys are generated for each execution."""

    generate: KeyPairSize


class HeParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scheme and keys."""

    schema: _Schema | UnsetType = UNSET
    key_pair: KeyPair | UnsetType = UNSET


class Encoding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The encoding of numbers as plaintexts."""

    cleartext_type: Annotated[str, Meta(pattern="^DT_[A-Z0-9]{2,8}$")] | UnsetType = UNSET
    encoder: (
        Literal["IntegerEncoder", "FloatEncoder", "BigintEncoder", "BatchIntegerEncoder", "BatchFloatEncoder"]
        | UnsetType
    ) = UNSET
    encoder_args: dict[Literal["scale", "padding_size"], Annotated[int, Meta(ge=1, le=1 << 62)]] | UnsetType = UNSET


class HeuConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HEU as SecretFlow takes it, or flat as Kuscia writes it (`mode`, `schema`, `key_size`)."""

    mode: Literal["PHEU"] | UnsetType = UNSET
    sk_keeper: HeuParty | UnsetType = UNSET
    evaluators: Annotated[list[HeuParty], Meta(max_length=16)] | UnsetType = UNSET
    he_parameters: HeParameters | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    schema: _Schema | UnsetType = UNSET
    key_size: _KeySize | UnsetType = UNSET


def spelled(given: Any) -> Any:
    """Return a `spu_config` with the usual spelling of what protobuf's JSON and SecretFlow's enums spell in more ways.

    These are names in camel case, integers as texts, and protocol and field in small letters or by number.
    """
    if not isinstance(given, dict):
        return given
    made = dict(given)
    if isinstance(link_desc := given.get("link_desc"), dict):
        made["link_desc"] = _underscored(link_desc, "spu_config.link_desc")
    cluster_def = given.get("cluster_def")
    if isinstance(cluster_def, dict) and isinstance(runtime := cluster_def.get("runtime_config"), dict):
        config = _underscored(runtime, "spu_config.cluster_def.runtime_config")
        config |= {name: _member(config[name], members) for name, members in _MEMBERS.items() if name in config}
        made["cluster_def"] = {**cluster_def, "runtime_config": config}
    return made


def _underscored(given: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a message of protobuf with its fields' own names.

    Raises msgspec.ValidationError where one field is there in two spellings, with different values.
    """
    made: dict[str, Any] = {}
    for name, each in given.items():
        plain = _UPPER.sub(lambda found: f"_{found[0].lower()}", name)
        if made.setdefault(plain, each) != each:
            raise ValidationError(f"Object has `{plain}` in two spellings, with different values - at `$.{path}`")
    return made


def _member(given: Any, members: tuple[str, ...]) -> Any:
    """Return the member of an enum that is given by name in any case, or by number."""
    number = given
    if isinstance(given, str) and given.isascii():
        if given.upper() in members:
            return given.upper()
        number = int(given) if given.isdecimal() and len(given) < 4 else given
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return members[int(number) - 1] if is_number and number in range(1, len(members) + 1) else given


def acknowledges(task_type: object, spu_config: dict[str, Any] | None) -> bool:
    """Return whether parties of a task tell the others of the SPU's link which messages they have read.

    Where they do not, nothing keeps a party from sending more than the other one takes in, as intersections and
    CHEETAH's transfers would, and what waits for an acknowledgement fails.
    """
    config = spu_config or {}
    protocol = config.get("cluster_def", {}).get("runtime_config", {}).get("protocol")
    asked_for = "throttle_window_size" in (config.get("link_desc") or {})
    return asked_for or task_type not in _IN_STEP or protocol not in _WITHOUT_TRANSFERS
