"""The job envelope, as the web side appends it to a job stream. Runs in the daemon and in party processes.

Field names and defaults are a contract. The job's own parameters stay undecoded (`task_config`) until the catalog
knows which struct they belong to.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from sfworker.errors import EnvelopeError, ParameterValidationError, SecretFlowTaskError
from sfworker.wire import tolerance
from sfworker.wire.devices import HeuConfig, LinkDesc, RuntimeConfig, spelled
from sfworker.wire.tolerance import CONFIGURATION

# Ids become environment variables and parts of keys. Names of parties become parts of paths, of which libraries make
# commands for a shell, so they hold nothing that has a meaning anywhere.
_ID = r"^[^\x00-\x1f\x7f]+$(?!\n)"
_PARTY = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$(?!\n)"
_PATTERNS = {
    _ID: "without control characters",
    _PARTY: "of ASCII letters, digits, `_`, `-` and `.`, the first a letter or digit",
}
Identifier = Annotated[str, Meta(min_length=1, max_length=256, pattern=_ID, description="A non-empty identifier.")]
PartyName = Annotated[str, Meta(min_length=1, max_length=64, pattern=_PARTY, description="Name of a party.")]
_DEEPEST = 100
"""Lists and objects of an envelope within each other. Code that goes through them may take a call for each."""
Configuration = Annotated[dict[str, Any], Meta(extra=CONFIGURATION)]
Seconds = Annotated[float, Meta(gt=0, le=30 * 86400)]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of how an execution is run. Every field has a default."""

    priority: Annotated[
        Literal["high", "normal", "low"], Meta(description="For people; the stream decides the rank.")
    ] = "normal"
    soft_time_limit: Annotated[Seconds, Meta(description="Seconds until the job is asked to stop.")] = 3000.0
    time_limit: Annotated[Seconds, Meta(description="Seconds until the job's processes are killed.")] = 3600.0
    max_retries: Annotated[int, Meta(ge=0, le=100, description="Attempts after the first.")] = 3
    retry_delay: Annotated[
        float, Meta(ge=0, le=86400, description="Seconds before the first retry; doubles with each, with jitter.")
    ] = 60.0
    expires_at: Annotated[
        Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | float | None,
        Meta(description="ISO 8601 with zone, or Unix seconds: not started after this."),
    ] = None
    memory_limit_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Memory of all its processes together; it is ended above that. Default: the worker's."),
    ] = None
    scratch_limit_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Disk under its scratch directories; it is ended above that. Default: the worker's."),
    ] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | None,
        Meta(description="Processors that each of its processes computes on. Default: the worker's."),
    ] = None
    session: Annotated[
        Literal["fresh", "reuse"],
        Meta(description="`reuse`: may share its processes with earlier and later jobs of its parties and devices."),
    ] = "fresh"


class FedParty(Struct, frozen=True, kw_only=True):
    """One party that is on a machine of its own."""

    address: Annotated[
        str, Meta(description="Of its gateway, `host:port`, as in the worker's settings; may be left out.")
    ] = ""


class ClusterConfig(Struct, frozen=True, kw_only=True):
    """Parties on machines of their own, joined by their gateways; this worker is `self_party`."""

    parties: Annotated[dict[PartyName, FedParty], Meta(min_length=1, max_length=16)]
    self_party: PartyName


class SfInitConfig(Struct, frozen=True, kw_only=True):
    """Options of the session's start. Other options of `secretflow.init` are tolerated and not used."""

    parties: Annotated[
        Annotated[list[PartyName], Meta(min_length=1, max_length=16)] | None,
        Meta(description="At most 16. Default: SECRETFLOW_PARTIES."),
    ] = None
    address: Annotated[
        str | None,
        Meta(
            description="`local`: every party on this host. Or `host:port`, a Ray cluster among those of the worker's "
            "settings: each party on a node that offers it. Default: SECRETFLOW_ADDRESS."
        ),
    ] = None
    cluster_config: ClusterConfig | None = None
    engine: Annotated[
        Literal["mesh", "ray"],
        Meta(description="What places the parties of `address: local`: `ray` on a Ray head of the worker's own."),
    ] = "mesh"
    runtime_env: Annotated[
        Configuration | None,
        Meta(
            description="On a Ray cluster `env_vars`, of the names that the operator allows, in the environment of the "
            "party processes. Elsewhere without effect."
        ),
    ] = None


class SpuNode(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One SPU node, as SecretFlow takes it."""

    party: PartyName
    address: str = ""
    listen_address: str = ""
    tls_opts: Configuration | None = None


class ClusterDef(Struct, frozen=True, kw_only=True):
    """SecretFlow's SPU `cluster_def`; `nodes` may be left out, and addresses in it are replaced."""

    runtime_config: Annotated[
        RuntimeConfig,
        Meta(description="SPU's own options, `protocol` and `field` (default: the task type's) among them."),
    ]
    nodes: list[SpuNode] = []


class SpuConfig(Struct, frozen=True, kw_only=True):
    """The SPU device of the job."""

    cluster_def: ClusterDef
    link_desc: LinkDesc | None = None


class Envelope(Struct, frozen=True, kw_only=True):
    """One execution that the web side asks for. Unknown keys beside these are tolerated."""

    task_id: Annotated[Identifier, Meta(description="The flow (DAG) that this belongs to.")]
    subtask_id: Annotated[Identifier, Meta(description="The node of the flow.")]
    execution_id: Annotated[Identifier, Meta(description="This execution; answered exactly once.")]
    sf_init_config: SfInitConfig
    task_config: Annotated[dict[str, Any], Meta(description="`task_type` and that task type's own parameters, flat.")]
    spu_config: SpuConfig | None = None
    heu_config: HeuConfig | None = None
    options: Options = Options()


class EnvelopeIds(Struct, frozen=True, kw_only=True):
    """The ids of an envelope, read leniently so that a bad one can still be answered under its own name."""

    execution_id: Any = None
    task_id: Any = None
    subtask_id: Any = None

    def usable(self) -> bool:
        return isinstance(self.execution_id, str) and 0 < len(self.execution_id) <= 256


class _Parties(Struct):
    parties: dict[PartyName, Any]


class _ClusterConfig(Struct):
    cluster_config: _Parties


class _OfPeers(Struct):
    sf_init_config: _ClusterConfig


class _Task(Struct):
    task_type: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.:-]{1,100}\Z")]


class _OfTask(Struct):
    task_config: _Task


_T = TypeVar("_T")
_OFFENDING = re.compile(r"^(Invalid (?:enum )?value).*", re.S)
_OUTSIDE = re.compile(r"^Object (missing required|contains unknown) field `(.*)`$", re.S)
_DEVICES = ("spu_config", "heu_config")
_LONGEST_FIELD = 200
_NO_TIMES = ("", "0001-01-01T00:00:00Z")
"""What Go and C# write for a time that was not set."""
_MILLISECONDS = 1e11
"""From here on a time is in milliseconds: as seconds it would be beyond the year 5000."""
_Time = Annotated[datetime, Meta(tz=True)]


def explain(error: msgspec.ValidationError, root: str = "") -> str:
    """A decoding error as `field: what is wrong`, without the offending value (it may be data)."""
    # From the right, as the offending value may hold anything.
    what, placed, path = str(error).rpartition(" - at `")
    what, path = (what, path.removesuffix("`")) if placed else (path, "")
    in_key, path = path.startswith("key` in `"), path.removeprefix("key` in `")
    parts = [root, path.removeprefix("$").removeprefix("."), "(a name in it)" if in_key else ""]
    what = _OFFENDING.sub(r"\1", what)
    for pattern, meaning in _PATTERNS.items():
        what = what.replace(f"matching regex {pattern!r}", meaning)
    if outside := _OUTSIDE.match(what):
        parts.append(outside[2])
        what = "required and missing" if outside[1] == "missing required" else "unknown parameter"
    field = ".".join(part for part in parts if part) or "envelope"
    # A name of the sender's own may hold anything, and what is said is one line.
    shown = "".join(each if each.isprintable() else "�" for each in field[:_LONGEST_FIELD])
    return f"{shown}: {what[0].lower()}{what[1:]}"


def expired(options: Options, now: float) -> bool:
    """Return whether the job may no longer be started at `now` (Unix seconds).

    Raises ParameterValidationError where `expires_at` is no time.
    """
    at = options.expires_at
    if at in _NO_TIMES:
        return False
    if isinstance(at, str):
        try:
            at = msgspec.convert(at, _Time).timestamp()
        except msgspec.ValidationError:
            raise ParameterValidationError(
                "options.expires_at: neither ISO 8601 with date, time and zone (2026-01-31T18:00:00Z) nor Unix seconds"
            ) from None
    if at is not None and at >= _MILLISECONDS:
        raise ParameterValidationError("options.expires_at: expected Unix seconds, got what must be milliseconds")
    return at is not None and at <= now


def decode_ids(data: bytes) -> EnvelopeIds:
    """The ids in `data`, or empty ones where it is not a JSON object."""
    try:
        return msgspec.json.decode(data, type=EnvelopeIds)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return EnvelopeIds()


def decode_task_type(data: bytes) -> str:
    """Return the task type that an envelope names, empty where it names none as a task type is named."""
    try:
        return msgspec.json.decode(data, type=_OfTask).task_config.task_type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def parties_elsewhere(data: bytes) -> list[str]:
    """The parties of `cluster_config` in an envelope that may be wrong otherwise."""
    try:
        return list(msgspec.json.decode(data, type=_OfPeers).sf_init_config.cluster_config.parties)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def decode_envelope(data: bytes, max_bytes: int, unread: list[str] | None = None) -> Envelope:
    """Decode and check an envelope. The paths in it that no worker reads are appended to `unread`.

    Raises EnvelopeError where it is no envelope at all, ParameterValidationError where a field is wrong.
    """
    if len(data) > max_bytes:
        raise EnvelopeError(
            f"envelope: {len(data)} bytes long, at most {max_bytes} are accepted; pass data by path, not by value"
        )
    try:
        given = _plain(data)
        # Nothing is deeper than it has brackets.
        if data.count(b"{") + data.count(b"[") > _DEEPEST and _is_deeper(given, _DEEPEST):
            raise RecursionError
        _require_unique(data)
        envelope: Envelope = tolerance.convert(_spelled(given), Envelope, unread)
        _require_64_bits({name: given.get(name) for name in Envelope.__struct_fields__})
    except msgspec.ValidationError as error:
        raise _field_error(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EnvelopeError("envelope: not valid JSON; append the job as one JSON object in UTF-8") from None
    except RecursionError:
        raise EnvelopeError(
            "envelope: lists or objects nested too deep; append the job as one flat JSON object"
        ) from None
    return envelope


def _plain(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.ValidationError:  # a number beyond all numbers, whose field only the struct's decoder tells
        msgspec.json.decode(data, type=Envelope)
        raise msgspec.ValidationError("Number out of range") from None


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with each of its names, however often one is there."""


class _RepeatedNameError(Exception):
    pass


def _unrepeated(found: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(found)
    if len(made) != len(found):
        raise _RepeatedNameError
    return made


_UNREPEATED = json.JSONDecoder(object_pairs_hook=_unrepeated, parse_int=str, parse_float=str)
_PAIRS = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=str, parse_float=str)


def _require_unique(data: bytes) -> None:
    """Raise ValidationError where an object holds a name twice with different values, of which readers take any."""
    text = data.decode()
    try:
        _UNREPEATED.decode(text)
    except _RepeatedNameError:
        given = _PAIRS.decode(text)
    else:
        return
    if isinstance(given, _Pairs):
        read = _Pairs(pair for pair in given if pair[0] in Envelope.__struct_fields__)  # the rest has no effect
        if (path := _ambiguous(read, "$")) is not None:
            raise msgspec.ValidationError(f"Given twice, with different values - at `{path}`")


def _ambiguous(given: Any, path: str) -> str | None:
    """Return the path of the first name that is given twice with different values."""
    if isinstance(given, _Pairs):
        seen: dict[str, Any] = {}
        for name, each in given:
            at = f"{path}.{name[:_LONGEST_FIELD]}".replace("`", "�")
            if seen.setdefault(name, each) != each:
                return at
            if found := _ambiguous(each, at):
                return found
    elif isinstance(given, list):
        for number, each in enumerate(given):
            if found := _ambiguous(each, f"{path}[{number}]"):
                return found
    return None


def _spelled(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    # An empty configuration makes no device. It is how PHP and others write that there is none.
    given = {name: each for name, each in given.items() if not (name in _DEVICES and each in ([], {}))}
    return {**given, "spu_config": spelled(given["spu_config"])} if "spu_config" in given else given


def _is_deeper(given: Any, most: int) -> bool:
    if not isinstance(given, dict | list):
        return False
    within = given.values() if isinstance(given, dict) else given
    return most == 0 or any(_is_deeper(each, most - 1) for each in within)


def _require_64_bits(given: Any) -> None:
    """Raise ValidationError where an integer fits no frame, as structs do except where they take anything."""
    try:
        msgspec.msgpack.encode(given)
    except OverflowError:
        _raise_beyond_64_bits(given, "$")
        raise


def _raise_beyond_64_bits(given: Any, path: str) -> None:
    if isinstance(given, int) and not -(1 << 63) <= given < 1 << 64:
        raise msgspec.ValidationError(f"Integer value out of range - at `{path}`")
    if isinstance(given, dict):
        for name, each in given.items():
            _raise_beyond_64_bits(each, f"{path}.{name}")
    elif isinstance(given, list):
        for number, each in enumerate(given):
            _raise_beyond_64_bits(each, f"{path}[{number}]")


def _field_error(error: msgspec.ValidationError) -> SecretFlowTaskError:
    sentence = explain(error)
    if sentence.startswith("envelope:"):
        return EnvelopeError(f"{sentence}; append the job as one JSON object")
    return ParameterValidationError(f"{sentence}; `sfworker schema envelope` prints what is accepted")
