"""`component`: any component of SecretFlow, by its own parameters. Runs in the daemon and in party processes.

`node_eval_param` is SecretFlow's `NodeEvalParam` in the JSON form of protocol buffers, as SecretPad and Kuscia send it.
What a component's attributes mean is known to SecretFlow only, which the daemon never imports: here the shape is
checked, in the parties' processes the rest.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from sfworker.catalog.base import Path, TaskParams, TaskType, register
from sfworker.errors import ParameterValidationError
from sfworker.wire import tolerance
from sfworker.wire.envelope import PartyName, explain

NULL = "sf.null"
"""Type of an optional input that is not given."""
# A parser of this JSON form accepts both spellings of a field's name.
_NAMES = {
    "attrPaths": "attr_paths",
    "checkpointUri": "checkpoint_uri",
    "compId": "comp_id",
    "dataRefs": "data_refs",
    "isNa": "is_na",
    "nullStrs": "null_strs",
    "outputUris": "output_uris",
    "systemInfo": "system_info",
}
_OPAQUE = {"meta", "system_info"}
_Long = int | str
_Real = float | str
_S = TypeVar("_S", bound=Struct)


class Attribute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The value of one attribute, in the field of its type."""

    f: _Real | None = None
    i64: _Long | None = None
    s: str | None = None
    b: bool | None = None
    fs: list[_Real] = []
    i64s: list[_Long] = []
    ss: list[str] = []
    bs: list[bool] = []
    is_na: bool = False


class DataRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of one party."""

    uri: Path
    party: PartyName
    format: str = ""
    null_strs: list[str] = []


class DistData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table, model, rule or report: what it is, and where the parties hold it."""

    type: Annotated[str, Meta(min_length=1)]
    name: str = ""
    version: str = ""
    system_info: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    data_refs: list[DataRef] = []


class NodeEvalParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A component with its attributes, inputs and outputs."""

    domain: str = ""
    name: str = ""
    version: str = ""
    comp_id: str = ""
    attr_paths: list[Annotated[str, Meta(min_length=1)]] = []
    attrs: list[Attribute] = []
    inputs: list[DistData] = []
    output_uris: list[Annotated[str, Meta(max_length=4096)]] = []
    """Empty, or named twice, where an output has no file; which ones have is the component's definition."""
    checkpoint_uri: str = ""

    @property
    def component(self) -> str:
        """`domain/name:version`."""
        return self.comp_id or f"{self.domain}/{self.name}:{self.version}"


def read(given: Any, kind: type[_S], where: str) -> _S:
    """`given` as a struct of this module. Raises ParameterValidationError, naming the field below `where`."""
    try:
        return tolerance.convert(_original_names(given), kind)
    except msgspec.ValidationError as error:
        raise ParameterValidationError(explain(error, where)) from None


def check_node(node: NodeEvalParam, where: str, parties: list[str]) -> None:
    """Checks of a node's own fields. Raises ParameterValidationError, naming the field below `where`."""
    domain, _, rest = node.component.partition("/")
    name, _, version = rest.partition(":")
    numbers = version.split(".")
    if not (domain and name) or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ParameterValidationError(
            f"{where}.comp_id: give domain, name and version of a component, as `stats/ss_vif:1.0.0`"
        )
    if len(node.attr_paths) != len(node.attrs):
        raise ParameterValidationError(
            f"{where}.attrs: {len(node.attrs)} values for {len(node.attr_paths)} attr_paths; each path needs one"
        )
    if len(set(node.attr_paths)) != len(node.attr_paths):
        raise ParameterValidationError(f"{where}.attr_paths: names an attribute twice")
    for number, each in enumerate(node.inputs):
        check_dist_data(each, f"{where}.inputs[{number}]", parties)
    for number, uri in enumerate(node.output_uris):
        if uri:
            _check_uri(uri, f"{where}.output_uris[{number}]")
    if node.checkpoint_uri:
        _check_uri(node.checkpoint_uri, f"{where}.checkpoint_uri")


def check_dist_data(data: DistData, where: str, parties: list[str]) -> None:
    """Checks of what is named as input or output. Raises ParameterValidationError, naming the field below `where`."""
    for number, ref in enumerate(data.data_refs):
        if ref.party not in parties:
            raise ParameterValidationError(
                f"{where}.data_refs[{number}].party: names a party that is not in sf_init_config.parties "
                f"({', '.join(parties)})"
            )
        _check_uri(ref.uri, f"{where}.data_refs[{number}].uri")
    if data.meta is not None and not isinstance(data.meta.get("@type"), str):
        raise ParameterValidationError(f"{where}.meta.@type: required, the type that the other fields belong to")


def _check_uri(uri: str, where: str) -> None:
    # Components join uris to directories of their own, where an absolute one or `..` would lead anywhere.
    if posixpath.isabs(uri) or ".." in uri.split("/") or posixpath.normpath(uri) == ".":
        raise ParameterValidationError(f"{where}: has to be relative to each party's first data root, without `..`")


def _original_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {_NAMES.get(key, key): each if key in _OPAQUE else _original_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_original_names(each) for each in value]
    return value


class ComponentParams(TaskParams, tag="component", frozen=True, kw_only=True):
    """Runs one of SecretFlow's components, with its own attributes, in this execution's session.

    Storage is each party's first data root, so parties must not share one. Outputs appear there together when the
    execution has succeeded. With `checkpoint_uri`, training components save their state after each step in files that
    stay, however the execution ends (the model's uri with `_checkpoint_<step>`, and the checkpoint's uri with
    `_<step>`); an execution with the same inputs, attributes and uris goes on from there. It is theirs to delete.

    Refused are `io/data_source` and `io/data_sink`, which exchange data with Kuscia's DataMesh,
    `ml.predict/serving_model_inferencer`, which starts servers that listen on TCP ports, and `ml.train/knn_train` with
    `ml.predict/knn_predict`, whose parties would have to run code that others send.
    """

    node_eval_param: Annotated[
        dict[str, Any],
        Meta(
            description="SecretFlow's NodeEvalParam as protobuf JSON: `comp_id` (or `domain`, `name` and `version`), "
            "`attr_paths`, `attrs`, `inputs`, `output_uris`, `checkpoint_uri`. Uris are relative to the data root."
        ),
    ]

    def check(self, parties: list[str]) -> None:
        # The base takes an object for one by party, which this one is not.
        check_node(self.node(), "task_config.node_eval_param", parties)

    def agreed(self) -> Any:
        node = msgspec.to_builtins(self.node())
        for each in node.get("inputs", []):
            each["data_refs"] = [ref["party"] for ref in each.get("data_refs", [])]
        return {name: value for name, value in node.items() if name not in {"output_uris", "checkpoint_uri"}}

    def node(self) -> NodeEvalParam:
        """`node_eval_param`, typed. Raises ParameterValidationError."""
        return read(self.node_eval_param, NodeEvalParam, "task_config.node_eval_param")


class ReportTable(Struct, frozen=True, kw_only=True):
    """One table of a report; descriptions are tables with the columns `name` and `value`."""

    name: str
    columns: list[str]
    index: list[str]
    """Names of the rows."""
    rows: list[list[Any]]


class Report(Struct, frozen=True, kw_only=True):
    """A report, decoded."""

    name: str
    tables: list[ReportTable]


class ComponentResult(Struct, frozen=True, kw_only=True):
    """The result of `component`."""

    component: str
    outputs: list[dict[str, Any]]
    """The outputs as protobuf JSON (DistData) in the component's order; the next component's `inputs`."""
    reports: list[Report] = field(default_factory=list)
    """Every output that is a report, as plain tables."""
    warnings: list[str] = field(default_factory=list)
    """A sentence for each column whose numbers may be too large for the SPU's field."""


COMPONENT = register(
    TaskType(
        name="component",
        summary="Runs any component of SecretFlow by its NodeEvalParam (as SecretPad and Kuscia send it)",
        params=ComponentParams,
        result=ComponentResult,
        disclosures=(
            "what a component reveals is the component's own and decided by its code and attributes, not by this "
            "worker: see SecretFlow's documentation of the component before allowing it",
            "readers of the result learn the whole content of every report, and of every output the name, type, "
            "row count, column names and types, and what the component calls public (of a model: names of features "
            "and label, for some kinds also figures of the training)",
            "stats/ss_pearsonr and stats/ss_vif show every party the mean and deviation of every column; "
            "data_prep/psi shows every party how many rows each file and the intersection have",
            "io/read_data puts a rule or model itself into the result: bin edges, weights or trees",
            "attributes that ask for a report of weights, rules or importances (report_weights, report_rules, "
            "report_importances) put those into the result",
            "a predicting component's receiver learns the predictions; filters and samples show every party which "
            "of its rows were chosen; tables that a component writes hold each party's own columns only",
            "every party learns the parameters of the job, column names of all inputs and random ids of models",
            "every party, and readers of the result, learn which columns may be too large for the SPU's field",
            "refused are input tables of fewer rows than SFWORKER_MIN_INPUT_ROWS; intersections of fewer keys than "
            "SFWORKER_MIN_INTERSECTION_ROWS, or of none where SFWORKER_REVEAL_EMPTY_INTERSECTIONS is false; bins "
            "that WOE, a report of rules or stats_psi would tell, of some and fewer rows than SFWORKER_MIN_BIN_ROWS; "
            "groups of fewer rows than SFWORKER_MIN_GROUP_ROWS are left out, and refused where none is left; "
            "conditions of filters that some rows but fewer than these satisfy, or do not; who reads the error learns "
            "that",
        ),
    )
)
