"""Implements `model_export`, SecretFlow's export of components for SecretFlow-Serving. Runs in party processes."""

from __future__ import annotations

import base64

from google.protobuf import json_format
from secretflow.component.core import IServingExporter
from secretflow_spec import Definition
from secretflow_spec.v1 import report_pb2
from secretflow_spec.v1.component_pb2 import Attribute
from secretflow_spec.v1.data_pb2 import DistData
from secretflow_spec.v1.evaluation_pb2 import NodeEvalParam

from sfworker.catalog.model_export import ExportedComponent, ModelExportParams, ModelExportResult
from sfworker.components import params as component_params
from sfworker.components.evaluate import column_names, evaluate
from sfworker.errors import ParameterValidationError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher

WHERE = "task_config.components"
EXPORT = "model/model_export:1.0.0"


@TaskDispatcher.register_task("model_export")
def model_export(context: JobContext[ModelExportParams]) -> ModelExportResult:
    """Write each party's package in its own process. The catalogue entry says what that reveals."""
    params = context.params
    definition = component_params.definition_of(EXPORT, WHERE)
    given = [_given(context.parties, component, number) for number, component in enumerate(params.components)]
    attributes = {
        "model_name": Attribute(s=params.model_name),
        "model_desc": Attribute(s=params.model_desc),
        "he_mode": Attribute(b=params.he_mode),
        "input_datasets": Attribute(ss=[_json(data) for _, inputs, _ in given for data in inputs]),
        "output_datasets": Attribute(ss=[_json(data) for _, _, outputs in given for data in outputs]),
        "component_eval_params": Attribute(
            ss=[base64.b64encode(_json(param).encode()).decode() for param, _, _ in given]
        ),
    }
    param = NodeEvalParam(
        comp_id=EXPORT,
        attr_paths=list(attributes),
        attrs=list(attributes.values()),
        # Only this party's own package is written here.
        output_uris=[params.output_paths.get(str(context.self_party), ""), "report"],
    )
    made = evaluate(context, definition, param, where=WHERE, inputs="components", outputs="output_paths")
    package, report = made.outputs
    parties = params.table_parties()
    return ModelExportResult(
        model_name=package.name,
        output_paths={party: params.output_paths[party] for party in parties},
        columns=_columns(given[0][1], report),
    )


def _given(
    parties: list[str], component: ExportedComponent, number: int
) -> tuple[NodeEvalParam, list[DistData], list[DistData]]:
    """Return a component's parameter, inputs and outputs as SecretFlow takes them. Raises ParameterValidationError."""
    where = f"{WHERE}[{number}]"
    node = component.node(where)
    definition = component_params.definition_of(node.component, f"{where}.node_eval_param")
    if not issubclass(definition.component_cls, IServingExporter):
        raise ParameterValidationError(
            f"{where}.node_eval_param.comp_id: {definition.component_id} cannot be exported; leave it out where it "
            f"changes no columns"
        )
    param = component_params.message(node, f"{where}.node_eval_param")
    inputs, outputs = (
        [component_params.dist_data(each, f"{where}.{name}[{at}]") for at, each in enumerate(data)]
        for name, data in zip(("inputs", "outputs"), component.data(where), strict=True)
    )
    expected = definition.get_output_defs(Definition.parse_minor(definition.version))
    if len(outputs) != len(expected):
        names = ", ".join(each.name for each in expected)
        raise ParameterValidationError(f"{where}.outputs: {len(outputs)} given, the component has {names}")
    del param.inputs[:]
    param.inputs.extend(inputs)
    component_params.check(parties, definition, param, f"{where}.node_eval_param")
    return param, inputs, outputs


def _columns(inputs: list[DistData], report: DistData) -> dict[str, list[str]]:
    """Return the columns of the first component's table that are used, which upstream's report lists with commas."""
    used = report_pb2.Report()
    report.meta.Unpack(used)
    [table] = [data for data in inputs if data.type == "sf.table.vertical"]
    return {
        party: [name for name in names if f",{name}," in f",{used.desc},"]
        for party, names in column_names(table).items()
    }


def _json(message: NodeEvalParam | DistData) -> str:
    return str(json_format.MessageToJson(message, indent=0))
