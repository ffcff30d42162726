"""Implements `component`, which evaluates a component of SecretFlow in this session. Runs in party processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from secretflow.component.ml.linear import ss_glm_train, ss_sgd_train
from secretflow_spec.v1 import report_pb2
from secretflow_spec.v1.component_pb2 import Attribute
from secretflow_spec.v1.data_pb2 import DistData

from sfworker.catalog.component import ComponentParams, ComponentResult, Report, ReportTable
from sfworker.components import params as component_params
from sfworker.components.evaluate import as_json, evaluate
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure import gradient_descent, sgb

WHERE = "task_config.node_eval_param"
_ZEROS: dict[str, Any] = {"float": 0.0, "int": 0, "bool": False, "str": ""}

# SecretFlow's own leave out the rows after the last full batch.
ss_sgd_train.SSRegression = gradient_descent.Regression
ss_glm_train.SSGLM = gradient_descent.Glm
sgb.use_ours()


@TaskDispatcher.register_task("component")
def component(context: JobContext[ComponentParams]) -> ComponentResult:
    """Evaluate the component, which decides what it reveals."""
    node = context.params.node()
    definition = component_params.definition_of(node.component, WHERE)
    param = component_params.message(node, WHERE)
    component_params.check(context.parties, definition, param, WHERE)
    outputs, far = evaluate(context, definition, param)
    told = context.reveal([context.at(party, list, far) for party in context.parties])
    return ComponentResult(
        component=node.component,
        outputs=[as_json(output) for output in outputs],
        reports=[report_of(output) for output in outputs if output.meta.Is(report_pb2.Report.DESCRIPTOR)],
        warnings=[
            f"column {name!r} of {party} holds numbers so large that sums of their squares may not fit into the SPU's "
            f"field; figures that it was computed into may be wrong; scale it, or use field FM128"
            for party, names in zip(context.parties, told, strict=True)
            for name in names
        ],
    )


def report_of(data: DistData) -> Report:
    """Return the report in `data` as plain tables."""
    report = report_pb2.Report()
    data.meta.Unpack(report)
    tables = [table for tab in report.tabs for table in _tables(tab.divs, [tab.name])]
    return Report(name=report.name or data.name, tables=tables)


def _tables(divs: Iterable[report_pb2.Div], names: list[str]) -> Iterator[ReportTable]:
    for div in divs:
        within = [*names, div.name]
        for child in div.children:
            if child.type == "table":
                yield _table(child.table, within)
            elif child.type == "descriptions":
                yield _descriptions(child.descriptions, within)
            else:
                yield from _tables([child.div], within)


def _table(table: report_pb2.Table, names: list[str]) -> ReportTable:
    types = [header.type for header in table.headers]
    return ReportTable(
        name=_joined([*names, table.name]),
        columns=[header.name for header in table.headers],
        index=[row.name for row in table.rows],
        rows=[[_plain(item, kind) for item, kind in zip(row.items, types, strict=True)] for row in table.rows],
    )


def _descriptions(descriptions: report_pb2.Descriptions, names: list[str]) -> ReportTable:
    return ReportTable(
        name=_joined([*names, descriptions.name]),
        columns=["name", "value"],
        index=[str(number) for number in range(len(descriptions.items))],
        rows=[[item.name, _plain(item.value, item.type)] for item in descriptions.items],
    )


def _joined(names: list[str]) -> str:
    return "/".join(dict.fromkeys(name for name in names if name))


def _plain(value: Attribute, kind: str) -> Any:
    """Return the value of an attribute of type `kind`."""
    for descriptor, content in value.ListFields():
        return list(content) if descriptor.label == descriptor.LABEL_REPEATED else content
    # Protocol buffers leave zeros out and do not tell in which field one was put, so the type says which zero it is.
    return _ZEROS.get(kind.lower().removeprefix("at_"))
