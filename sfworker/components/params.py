"""Checks a component's parameters against SecretFlow's definition of it. Runs in party processes.

Upstream's own checks answer with text that holds values; these name the field and the remedy.
"""

from __future__ import annotations

import difflib
import posixpath
from typing import Any

import msgspec
from google.protobuf import descriptor_pool, json_format
from secretflow_spec import Definition, Registry
from secretflow_spec.v1.component_pb2 import Attribute, AttributeDef, AttrType
from secretflow_spec.v1.data_pb2 import DistData
from secretflow_spec.v1.evaluation_pb2 import NodeEvalParam

from sfworker.catalog import component as catalog
from sfworker.errors import ParameterValidationError

REFUSED = {
    "io/data_source": "it reads from Kuscia's DataMesh; name the file as an input table instead",
    "io/data_sink": "it writes to Kuscia's DataMesh; take the output from the data root instead",
    "ml.predict/serving_model_inferencer": "it starts servers that listen on TCP ports; use the model's own predict",
    "ml.train/knn_train": "its parties would send each other code",
    "ml.predict/knn_predict": "its model holds code",
}
# Types of outputs that are in the result alone.
_WITHOUT_FILES = {"sf.report", "sf.read_data"}
# Field of each attribute type in the protobuf JSON of an attribute.
_FIELDS = {
    AttrType.AT_FLOAT: "f",
    AttrType.AT_INT: "i64",
    AttrType.AT_STRING: "s",
    AttrType.AT_BOOL: "b",
    AttrType.AT_FLOATS: "fs",
    AttrType.AT_INTS: "i64s",
    AttrType.AT_STRINGS: "ss",
    AttrType.AT_BOOLS: "bs",
    AttrType.AT_CUSTOM_PROTOBUF: "s",
    AttrType.AT_UNION_GROUP: "s",
    AttrType.AT_PARTY: "ss",
    AttrType.AT_COL_PARAMS: "ss",
}


def definition_of(component: str, where: str) -> Definition:
    """Return the definition of `domain/name:version`. Raises ParameterValidationError with the nearest names."""
    prefix = component.partition(":")[0]
    if prefix in REFUSED:
        raise ParameterValidationError(f"{where}.comp_id: {prefix} is not run here; {REFUSED[prefix]}")
    definition = Registry.get_definition_by_id(component)
    if definition is None:
        known = {each.component_id.partition(":")[0]: each.component_id for each in Registry.get_definitions()}
        near = [known[name] for name in difflib.get_close_matches(prefix, known, n=3)]
        remedy = f"did you mean {' or '.join(near)}?" if near else f"SecretFlow has {', '.join(sorted(known.values()))}"
        raise ParameterValidationError(f"{where}.comp_id: SecretFlow has no component of this name; {remedy}")
    if Definition.parse_minor(component.partition(":")[2]) > Definition.parse_minor(definition.version):
        raise ParameterValidationError(f"{where}.comp_id: newer than this SecretFlow's {definition.component_id}")
    return definition


def message(node: catalog.NodeEvalParam, where: str) -> NodeEvalParam:
    """Return the parameter as SecretFlow takes it. Raises ParameterValidationError naming the field below `where`."""
    return NodeEvalParam(
        version=node.version if node.comp_id else "",
        comp_id=node.component,
        attr_paths=node.attr_paths,
        attrs=[
            _parsed(each, Attribute, f"{where}.attrs[{number}] ({path})")
            for number, (path, each) in enumerate(zip(node.attr_paths, node.attrs, strict=True))
        ],
        inputs=[dist_data(each, f"{where}.inputs[{number}]") for number, each in enumerate(node.inputs)],
        output_uris=node.output_uris,
        checkpoint_uri=node.checkpoint_uri,
    )


def dist_data(given: catalog.DistData, where: str) -> DistData:
    """Return data as SecretFlow takes it. Raises ParameterValidationError naming the field."""
    kind = str((given.meta or {}).get("@type", "")).rpartition("/")[2]
    try:
        if kind:
            descriptor_pool.Default().FindMessageTypeByName(kind)
    except KeyError:
        raise ParameterValidationError(
            f"{where}.meta.@type: unknown; of a table it is type.googleapis.com/secretflow_spec.v1.IndividualTable "
            f"or VerticalTable, of others as the component that made them has returned it"
        ) from None
    return _parsed(given, DistData, where)


def check(parties: list[str], definition: Definition, param: NodeEvalParam, where: str) -> None:
    """Check that the component takes these attributes, inputs and outputs.

    Raises ParameterValidationError naming the field below `where`.
    """
    minor = Definition.parse_minor(param.comp_id.partition(":")[2])
    _check_inputs(definition.get_input_defs(minor), list(param.inputs), where)
    outputs = definition.get_output_defs(minor)
    if len(outputs) != len(param.output_uris):
        names = ", ".join(each.name for each in outputs) or "none"
        raise ParameterValidationError(
            f"{where}.output_uris: {len(param.output_uris)} given, the component has {len(outputs)} outputs ({names})"
        )
    _check_files(outputs, list(param.output_uris), where)
    _check_attributes(parties, definition, param, where)


def missing(definition: Definition, param: NodeEvalParam) -> list[str]:
    """Return the attributes without a default that the parameter does not give, other than those of a choice."""
    columns = [
        f"input/{each.name}/{attribute.name}"
        for each in definition.component_def.inputs
        for attribute in each.attrs
        if attribute.col_min_cnt_inclusive > 0
    ]
    atomic = [
        each.name
        for each in definition.component_def.attrs
        if each.HasField("atomic") and not each.prefixes and not each.atomic.is_optional
    ]
    given = {definition._trim_input_prefix(path) for path in param.attr_paths}
    return [path for path in [*columns, *atomic] if definition._trim_input_prefix(path) not in given]


def _check_files(outputs: list[Any], uris: list[str], where: str) -> None:
    """Check that each output with files has a path of its own. Others are in the result, so theirs says nothing."""
    taken = set()
    for number, (output, uri) in enumerate(zip(outputs, uris, strict=True)):
        if set(output.types) <= _WITHOUT_FILES:
            continue
        if not uri:
            raise ParameterValidationError(f"{where}.output_uris[{number}]: empty; {output.name} is written there")
        if posixpath.normpath(uri) in taken:
            raise ParameterValidationError(
                f"{where}.output_uris[{number}]: another output has this path; {output.name} needs one of its own"
            )
        taken.add(posixpath.normpath(uri))


def _parsed(given: msgspec.Struct, kind: type[Any], where: str) -> Any:
    try:
        return json_format.ParseDict(msgspec.to_builtins(given), kind())
    # Of types with a JSON form of their own, as google.protobuf.Any, the parser raises what it stumbles over.
    except (json_format.Error, LookupError, TypeError, ValueError, AttributeError):
        raise ParameterValidationError(f"{where}: is not the protobuf JSON of a {kind.__name__}") from None


def _check_inputs(inputs: list[Any], given: list[DistData], where: str) -> None:
    expected = ", ".join(each.name for each in inputs) or "none"
    variable = bool(inputs) and inputs[-1].is_variable
    if len(given) < len(inputs) - variable or (len(given) > len(inputs) and not variable):
        raise ParameterValidationError(
            f"{where}.inputs: {len(given)} given, the component takes {len(inputs)} ({expected}); "
            f"one that is left out has the type {catalog.NULL}"
        )
    for number, data in enumerate(given):
        each = inputs[min(number, len(inputs) - 1)]
        if data.type not in [*each.types, "sf.table.vertical_table"]:
            raise ParameterValidationError(
                f"{where}.inputs[{number}].type: input {each.name} takes {' or '.join(each.types)}"
            )


def _check_attributes(parties: list[str], definition: Definition, param: NodeEvalParam, where: str) -> None:
    described = {"/".join([*each.prefixes, each.name]): each for each in definition.component_def.attrs}
    columns = {
        f"input/{each.name}/{attribute.name}": attribute
        for each in definition.component_def.inputs
        for attribute in each.attrs
    }
    # Upstream takes column attributes without their input, too, as `label`, and SecretPad sends them so.
    plain = {definition._trim_input_prefix(path): path for path in columns}
    named: set[str] = set()
    for number, (path, value) in enumerate(zip(param.attr_paths, param.attrs, strict=True)):
        field = f"{where}.attrs[{number}] ({path})"
        whole = plain.get(path, path)
        if whole in named:
            raise ParameterValidationError(f"{where}.attr_paths[{number}]: names an attribute twice")
        named.add(whole)
        if whole in columns:
            limits = columns[whole]
            _check_kind(field, AttrType.AT_STRINGS, value)
            # In the definition, an upper limit of 0 is none.
            _check_length(field, len(value.ss), limits.col_min_cnt_inclusive, limits.col_max_cnt_inclusive or -1)
        elif path in described:
            _check_attribute(parties, field, described[path], value)
        else:
            near = difflib.get_close_matches(path, [*described, *columns], n=3)
            known = " or ".join(near) if near else ", ".join([*columns, *described]) or "none"
            raise ParameterValidationError(
                f"{where}.attr_paths[{number}]: the component has no attribute of this name; "
                f"{'did you mean ' + known + '?' if near else 'it has ' + known}"
            )


def _check_attribute(parties: list[str], field: str, attribute: AttributeDef, value: Attribute) -> None:
    _check_kind(field, attribute.type, value)
    atomic = attribute.atomic
    if attribute.type == AttrType.AT_PARTY:
        if not set(value.ss) <= set(parties):
            raise ParameterValidationError(
                f"{field}: names a party that is not in sf_init_config.parties ({', '.join(parties)})"
            )
        _check_length(field, len(value.ss), atomic.list_min_length_inclusive, atomic.list_max_length_inclusive)
        return
    if not attribute.HasField("atomic") or attribute.type not in _FIELDS:
        return
    name = _FIELDS[attribute.type]
    many = name.endswith("s") and name != "s"
    values = list(getattr(value, name)) if many else [getattr(value, name)]
    if many:
        _check_length(field, len(values), atomic.list_min_length_inclusive, atomic.list_max_length_inclusive)
    single = name.removesuffix("s") if many else name
    allowed = list(getattr(atomic.allowed_values, f"{single}s"))
    for each in values:
        if allowed and each not in allowed:
            raise ParameterValidationError(f"{field}: one of {', '.join(map(str, allowed))}")
        if single not in ("f", "i64"):
            continue
        _check_bound(field, each, getattr(atomic.lower_bound, single), atomic, lower=True)
        _check_bound(field, each, getattr(atomic.upper_bound, single), atomic, lower=False)


def _check_bound(field: str, value: float, bound: float, atomic: Any, *, lower: bool) -> None:
    side = "lower" if lower else "upper"
    inclusive = getattr(atomic, f"{side}_bound_inclusive")
    beyond = value < bound if lower else value > bound
    if getattr(atomic, f"{side}_bound_enabled") and (beyond or (value == bound and not inclusive)):
        limit = {"lower": ("greater than", "at least"), "upper": ("less than", "at most")}[side][inclusive]
        raise ParameterValidationError(f"{field}: has to be {limit} {bound:g}")


def _check_kind(field: str, kind: Any, value: Attribute) -> None:
    """Check that the value stands in the field of its type. A value that is left out is that type's zero."""
    expected = _FIELDS.get(kind)
    for descriptor, _ in value.ListFields():
        if expected is not None and descriptor.name not in (expected, "is_na"):
            raise ParameterValidationError(f"{field}: holds its value as `{descriptor.name}`; give it as `{expected}`")


def _check_length(field: str, length: int, fewest: int, most: int) -> None:
    if length < fewest or 0 <= most < length:
        limits = f"at least {fewest}" if most < 0 else f"{fewest} to {most}"
        raise ParameterValidationError(f"{field}: {length} values given, {limits} are needed")
