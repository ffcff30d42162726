"""`scaler`, `encoder`, `fillna` and `preprocessing_apply`: each party changes its own columns.

Runs in the daemon and in party processes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from sfworker.catalog.base import (
    ColumnName,
    ColumnRef,
    PartyColumnsIfAny,
    PartyPaths,
    TaskParams,
    TaskType,
    check_features,
    register,
    require_parties,
)
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Value: TypeAlias = bool | Integer | float | str
ColumnType = Literal["int", "float", "str", "bool"]
ColumnTypes = Annotated[
    dict[PartyName, dict[ColumnName, ColumnType]],
    Meta(
        description="Types of columns by party, where those that the cells have are not the right ones. Columns that "
        "are computed with as numbers are numbers whatever stands here."
    ),
]
FITTING = ("scaler", "encoder", "fillna", "binning")
"""Task types whose rules `preprocessing_apply` applies."""
HandleUnknown = Annotated[
    Literal["error", "ignore"],
    Meta(
        description="A category that was not there when fitting: an error, or ignored, which makes it what a missing "
        "value becomes (0 in every column; missing; its WOE)."
    ),
]


class TableParams(TaskParams, frozen=True, kw_only=True):
    """Parties that have an input file get a changed copy of it."""

    input_paths: Annotated[
        PartyPaths, Meta(min_length=1, description="CSV, Parquet or ORC file of each party that takes part.")
    ]
    column_types: ColumnTypes = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.require_inputs("column_types", self.column_types)

    def require_inputs(self, name: str, named: Mapping[str, object]) -> None:
        """Raises ParameterValidationError where the field `name` has something for a party without an input."""
        for party in named:
            if party not in self.input_paths:
                raise ParameterValidationError(
                    f"task_config.{name}.{party}: this party has no input; name one in input_paths, or leave it out"
                )

    def check_outputs(self, name: str, paths: dict[str, str]) -> None:
        """Raises ParameterValidationError unless the outputs `paths`, the field `name`, go with the inputs."""
        self.require_inputs(name, paths)
        require_parties(name, paths, self.input_paths)
        for party, path in paths.items():
            if posixpath.normpath(path) == posixpath.normpath(self.input_paths[party]):
                raise ParameterValidationError(f"task_config.{name}.{party}: is the party's input; name another file")


class CopyParams(TableParams, frozen=True, kw_only=True):
    """One output for each input."""

    output_paths: Annotated[
        PartyPaths, Meta(description="File to write at each party that has an input: CSV, Parquet or ORC.")
    ]

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.check_outputs("output_paths", self.output_paths)


class FitParams(CopyParams, frozen=True, kw_only=True):
    """Rules are fitted to the feature columns, which are replaced where they stand; other columns stay as they are."""

    keys: Annotated[PartyColumnsIfAny, Meta(description="Columns that are no features, such as ids.")] = field(
        default_factory=dict
    )
    label: Annotated[ColumnRef | None, Meta(description="The label, which is no feature.")] = None
    features: Annotated[
        PartyColumnsIfAny | None,
        Meta(
            description="Columns to change, by party; of a party left out, none. "
            "Default: every column that is neither key nor label."
        ),
    ] = None
    model_path: Annotated[
        PartyPaths | None,
        Meta(
            description="Directory of each party for its rules, which `preprocessing_apply` applies to other files. "
            "Default: they are not saved."
        ),
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.require_inputs("features", self.features or {})
        if self.model_path is not None:
            self.require_inputs("model_path", self.model_path)
            require_parties("model_path", self.model_path, self.input_paths)
        check_features(self.features, self.keys, [self.label])


class FitResult(Struct, frozen=True, kw_only=True):
    """The result of fitting."""

    output_paths: dict[str, str]
    model_path: dict[str, str] | None
    rule_id: str | None
    """The same in every party's saved rules; null where none are saved."""


class ScalerParams(FitParams, tag="scaler", frozen=True, kw_only=True):
    """Brings each column to mean 0 and deviation 1, or to the range from 0 to 1, as scikit-learn does.

    Missing values stay missing. A constant column is divided by 1.
    """

    method: Annotated[
        Literal["standard", "min_max"], Meta(description="Mean 0 and deviation 1, or the range from 0 to 1.")
    ] = "standard"


class EncoderParams(FitParams, tag="encoder", frozen=True, kw_only=True):
    """Replaces categories by numbers.

    `one_hot` makes a column `<column>_<category>` of 0 and 1 for each category, sorted; a missing value is 0 in all of
    them. `label` numbers the sorted categories from 0; `ordinal` numbers them in the order of `categories`. There, a
    missing value stays missing.
    """

    method: Annotated[Literal["one_hot", "label", "ordinal"], Meta(description="What stands for a category.")]
    categories: Annotated[
        dict[PartyName, dict[ColumnName, Annotated[list[Value], Meta(min_length=1)]]],
        Meta(description="Order of categories by party and column, for `ordinal`. Default: sorted."),
    ] = field(default_factory=dict)
    handle_unknown: HandleUnknown = "error"
    drop: Annotated[
        Literal["none", "first"], Meta(description="Whether `one_hot` leaves out the first category's column.")
    ] = "none"
    min_frequency: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="`one_hot` joins categories that fewer rows have, as a share, in `<column>_infrequent`.",
        ),
    ] = 0.0

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if self.method != "one_hot" and (self.drop != "none" or self.min_frequency):
            raise ParameterValidationError("task_config.method: drop and min_frequency go with one_hot only")
        if self.method != "ordinal" and self.categories:
            raise ParameterValidationError("task_config.categories: goes with method ordinal only")
        self.require_inputs("categories", self.categories)
        for party, columns in self.categories.items():
            for column, values in columns.items():
                if len(set(values)) != len(values):
                    raise ParameterValidationError(
                        f"task_config.categories.{party}: column {column!r} has a category twice"
                    )


class FillnaParams(FitParams, tag="fillna", frozen=True, kw_only=True):
    """Fills missing values of each column, as scikit-learn's SimpleImputer does."""

    strategy: Annotated[
        Literal["mean", "median", "most_frequent", "constant"],
        Meta(
            description="What fills: a figure of the column's other values (of equally frequent the smallest), or "
            "`fill_value`."
        ),
    ]
    fill_value: Annotated[
        bool | Integer | float | Annotated[str, Meta(max_length=1024)] | None,
        Meta(description="What `constant` fills with."),
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if (self.strategy == "constant") != (self.fill_value is not None):
            raise ParameterValidationError("task_config.fill_value: required by strategy constant, and by no other")


class PreprocessingApplyParams(CopyParams, tag="preprocessing_apply", frozen=True, kw_only=True):
    """Applies what `scaler`, `encoder`, `fillna` or `binning` saved to other files with the same columns."""

    model_path: Annotated[PartyPaths, Meta(description="Directory of each party's saved rules.")]
    handle_unknown: Annotated[
        Literal["error", "ignore"] | None,
        Meta(description="Takes the place of `handle_unknown` of the job that fitted the rules. Default: as fitted."),
    ] = None
    column_types: Annotated[
        ColumnTypes,
        Meta(
            description="Types of columns that no rule replaces, by party, where those that the cells have are not the "
            "right ones. The others have the type that they were fitted with."
        ),
    ] = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.require_inputs("model_path", self.model_path)
        require_parties("model_path", self.model_path, self.input_paths)


class PreprocessingApplyResult(Struct, frozen=True, kw_only=True):
    """The result of `preprocessing_apply`."""

    output_paths: dict[str, str]
    rule_id: str


ALONE = "nothing else: each party reads and changes its own columns alone, and the result holds no figure of them"
RULE_ID = "with model_path every party learns the rules' id, which is random"
SCALER = register(
    TaskType(
        name="scaler",
        summary="Scales columns: mean 0 and deviation 1, or 0 to 1",
        params=ScalerParams,
        result=FitResult,
        disclosures=(RULE_ID, ALONE),
    )
)
ENCODER = register(
    TaskType(
        name="encoder",
        summary="Encodes categories as numbers: one-hot, label, ordinal",
        params=EncoderParams,
        result=FitResult,
        disclosures=(RULE_ID, ALONE),
    )
)
FILLNA = register(
    TaskType(
        name="fillna",
        summary="Fills missing values: mean, median, most frequent, constant",
        params=FillnaParams,
        result=FitResult,
        disclosures=(RULE_ID, ALONE),
    )
)
PREPROCESSING_APPLY = register(
    TaskType(
        name="preprocessing_apply",
        summary="Applies the saved rules of a preprocessing job to other files",
        params=PreprocessingApplyParams,
        result=PreprocessingApplyResult,
        disclosures=("every party learns the rules' id, which is random", ALONE),
    )
)
