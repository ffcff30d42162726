"""`model_export`: a model as a package for SecretFlow-Serving. Runs in the daemon and in party processes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sfworker.catalog.base import PartyPaths, TaskParams, TaskType, register, require_parties
from sfworker.catalog.component import DistData, NodeEvalParam, check_dist_data, check_node, read
from sfworker.errors import ParameterValidationError


class ExportedComponent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component as it was run by `component`."""

    node_eval_param: Annotated[dict[str, Any], Meta(description="What it was run with.")]
    outputs: Annotated[
        list[dict[str, Any]], Meta(min_length=1, description="What it answered as `outputs`, all of them, in order.")
    ]
    inputs: Annotated[
        list[dict[str, Any]] | None, Meta(description="What it was given. Default: the `inputs` of node_eval_param.")
    ] = None

    def node(self, where: str) -> NodeEvalParam:
        """`node_eval_param`, typed. Raises ParameterValidationError, naming the field below `where`."""
        return read(self.node_eval_param, NodeEvalParam, f"{where}.node_eval_param")

    def data(self, where: str) -> tuple[list[DistData], list[DistData]]:
        """Inputs and outputs, typed. Raises ParameterValidationError, naming the field below `where`."""
        inputs = self.node(where).inputs
        if self.inputs is not None:
            inputs = [read(each, DistData, f"{where}.inputs[{number}]") for number, each in enumerate(self.inputs)]
        return inputs, [read(each, DistData, f"{where}.outputs[{number}]") for number, each in enumerate(self.outputs)]


class ModelExportParams(TaskParams, tag="model_export", frozen=True, kw_only=True):
    """Packs a model that components have trained, with the preprocessing before it, for SecretFlow-Serving.

    Each party gets a package of its own part. The first component takes a table that two or more parties hold together;
    exactly one trains or predicts, others before and after it transform columns. Each party's files are read where the
    components have written them, in the party's first data root.
    """

    model_name: Annotated[str, Meta(min_length=1, max_length=200, description="A random id is appended to it.")]
    components: Annotated[
        list[ExportedComponent],
        Meta(min_length=1, max_length=100, description="What is exported, in the order in which it was run."),
    ]
    output_paths: Annotated[PartyPaths, Meta(description="Package to write at each party, ending in `.tar.gz`.")]
    model_desc: Annotated[str, Meta(max_length=2000, description="What the model does, for people.")] = ""
    he_mode: Annotated[
        bool,
        Meta(
            description="Whether weights are exported encrypted (linear models of two parties; needs heu_config), so "
            "that no party ever sees them."
        ),
    ] = False

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        for number, component in enumerate(self.components):
            where = f"task_config.components[{number}]"
            check_node(component.node(where), f"{where}.node_eval_param", parties)
            inputs, outputs = component.data(where)
            for name, data in (("inputs", inputs), ("outputs", outputs)):
                for at, each in enumerate(data):
                    check_dist_data(each, f"{where}.{name}[{at}]", parties)
        require_parties("output_paths", self.output_paths, self.table_parties())
        for party, path in self.output_paths.items():
            if not path.endswith(".tar.gz"):
                raise ParameterValidationError(f"task_config.output_paths.{party}: has to end in .tar.gz")

    def table_parties(self) -> list[str]:
        """The parties that hold the table that the first component takes: they serve the model."""
        inputs, _ = self.components[0].data("task_config.components[0]")
        tables = [each for each in inputs if each.type == "sf.table.vertical"]
        if len(tables) != 1:
            raise ParameterValidationError(
                "task_config.components[0].inputs: has to have exactly one table of type sf.table.vertical"
            )
        return [reference.party for reference in tables[0].data_refs]


class ModelExportResult(Struct, frozen=True, kw_only=True):
    """The result of `model_export`."""

    model_name: str
    """With its random id, as the packages say it."""
    output_paths: dict[str, str]
    columns: dict[str, list[str]]
    """The columns of each party that a request for a prediction has to bring."""


MODEL_EXPORT = register(
    TaskType(
        name="model_export",
        summary="Packs a model that components have trained for SecretFlow-Serving",
        params=ModelExportParams,
        result=ModelExportResult,
        disclosures=(
            "of a linear model (ss_sgd, ss_glm) each party learns the weights of its own features in plain, and the "
            "label's party the intercept, too: training had kept them secret from everybody",
            "of ss_xgb the label's party learns the weights of all leaves in plain, which training had kept secret; of "
            "sgb it knew them; splits stay with the party whose features they are on",
            "with he_mode nobody learns weights: each package holds those of its party's own features encrypted for "
            "the other, and its party's private key; keep packages apart",
            "each party's package holds its own preprocessing rules in plain; every party learns the names and types "
            "of the columns that rules take and make",
            "readers of the result learn the model's name with its random id, and the names of the columns it needs",
        ),
    )
)
