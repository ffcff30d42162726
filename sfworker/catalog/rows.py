"""`feature_filter`, `condition_filter`, `sample` and `train_test_split`: which columns and rows stay.

Runs in the daemon and in party processes. Row n of every party's file is about the same case, as after `psi`, and it is
still so in the outputs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sfworker.catalog.base import (
    FLOOR,
    ColumnRef,
    PartyColumns,
    PartyColumnsIfAny,
    PartyPaths,
    TaskType,
    register,
)
from sfworker.catalog.preprocessing import ALONE, CopyParams, TableParams, Value
from sfworker.errors import ParameterValidationError

Comparator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "between", "is_null", "not_null"]
Seed = Annotated[
    Annotated[int, Meta(ge=0, le=2**32 - 1)] | None,
    Meta(description="Seed of the choice. Default: drawn by one party, which tells no other."),
]


class FeatureFilterParams(CopyParams, tag="feature_filter", frozen=True, kw_only=True):
    """Writes some of each party's columns; of a party that neither parameter names, all."""

    keep: Annotated[PartyColumns, Meta(description="Columns to write by party, in this order.")] = field(
        default_factory=dict
    )
    drop: Annotated[PartyColumnsIfAny, Meta(description="Columns to leave out by party.")] = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.require_inputs("keep", self.keep)
        self.require_inputs("drop", self.drop)
        for party, columns in self.keep.items():
            if self.drop.get(party):
                raise ParameterValidationError(f"task_config.drop.{party}: goes without keep; name one of the two")
            if len(set(columns)) != len(columns):
                raise ParameterValidationError(f"task_config.keep.{party}: names a column twice")


class FeatureFilterResult(Struct, frozen=True, kw_only=True):
    """The result of `feature_filter`."""

    output_paths: dict[str, str]


class Condition(ColumnRef, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison of one party's column. Text is compared by code point, so days as 2024-02-29 are in order."""

    comparator: Annotated[
        Comparator, Meta(description="`between` includes both ends. A missing cell satisfies `is_null` and `!=` only.")
    ]
    value: Annotated[
        Value | list[Value] | None,
        Meta(description="What to compare with: a list for `in`, a list of two for `between`, nothing for the nulls."),
    ] = None

    def values(self) -> list[Value]:
        """Return the values to compare with, as a list."""
        if self.value is None:
            return []
        return self.value if isinstance(self.value, list) else [self.value]


class ConditionFilterParams(CopyParams, tag="condition_filter", frozen=True, kw_only=True):
    """Writes, at every party, the rows that satisfy a condition on one party's column."""

    condition: Annotated[Condition, Meta(description="Which rows stay.")]

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.require_inputs("condition.party", {self.condition.party: None})
        comparator, value, values = self.condition.comparator, self.condition.value, self.condition.values()
        wants_list = comparator in ("in", "between")
        where = "task_config.condition.value"
        if comparator in ("is_null", "not_null"):
            if value is not None:
                raise ParameterValidationError(f"{where}: {comparator} compares with nothing; leave it out")
        elif not values or isinstance(value, list) != wants_list or (comparator == "between" and len(values) != 2):
            wanted = {"in": "a list of values", "between": "a list of two values"}.get(comparator, "one value")
            raise ParameterValidationError(f"{where}: {comparator} compares with {wanted}")
        if len({_kind(one) for one in values}) > 1:
            raise ParameterValidationError(f"{where}: mixes text, numbers and true or false; name values of one kind")
        if any(isinstance(one, bool) for one in values) and comparator not in ("==", "!=", "in"):
            raise ParameterValidationError(f"{where}: true and false have no order; use == or !=")


class ConditionFilterResult(Struct, frozen=True, kw_only=True):
    """The result of `condition_filter`."""

    rows: int
    """Rows in each output file."""
    input_rows: int
    output_paths: dict[str, str]


class SampleParams(CopyParams, tag="sample", frozen=True, kw_only=True):
    """Writes randomly chosen rows, the same ones at every party, in the order that they have in the input.

    With a `random_state` they are those of pandas: `DataFrame.sample`, with `stratify` `DataFrameGroupBy.sample`.
    """

    n: Annotated[
        Annotated[int, Meta(ge=1, le=2**32 - 1)] | None,
        Meta(description="Rows to choose; with `stratify` of each of its values."),
    ] = None
    frac: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Rows to choose, as a share of all; above 1 with `replace`."),
    ] = None
    replace: Annotated[bool, Meta(description="Whether a row can be chosen more than once.")] = False
    random_state: Seed = None
    stratify: Annotated[
        ColumnRef | None, Meta(description="Column each of whose values has `n` rows, or the share `frac` of its rows.")
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if (self.n is None) == (self.frac is None):
            raise ParameterValidationError("task_config.frac: required unless n is given, and goes without it")
        if self.frac is not None and self.frac > 1 and not self.replace:
            raise ParameterValidationError("task_config.frac: more rows than there are need `replace`")
        if self.stratify is not None:
            self.require_inputs("stratify.party", {self.stratify.party: None})


class SampleResult(ConditionFilterResult, frozen=True, kw_only=True):
    """The result of `sample`."""


class TrainTestSplitParams(TableParams, tag="train_test_split", frozen=True, kw_only=True):
    """Splits the rows in two parts, the same ones at every party, as scikit-learn's function of this name does."""

    train_paths: Annotated[PartyPaths, Meta(description="File of each party for the rows to train with.")]
    test_paths: Annotated[PartyPaths, Meta(description="File of each party for the rows to test with.")]
    train_size: Annotated[float, Meta(gt=0, lt=1, description="Share of the rows to train with, rounded down.")] = 0.75
    test_size: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="Share of the rows to test with, rounded up. Default: the others."),
    ] = None
    shuffle: Annotated[bool, Meta(description="Whether rows are mixed; if not, the first ones are to train with.")] = (
        True
    )
    random_state: Annotated[
        Seed, Meta(description="Seed of the mixing, of `shuffle`. Default: drawn by one party, which tells no other.")
    ] = None
    stratify: Annotated[
        ColumnRef | None, Meta(description="Column, such as the label, whose values have equal shares in both parts.")
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        self.check_outputs("train_paths", self.train_paths)
        self.check_outputs("test_paths", self.test_paths)
        if self.test_size is not None and self.train_size + self.test_size > 1:
            raise ParameterValidationError("task_config.test_size: is more than train_size leaves")
        if self.stratify is not None:
            self.require_inputs("stratify.party", {self.stratify.party: None})
            if not self.shuffle:
                raise ParameterValidationError("task_config.shuffle: stratify needs it; leave it out or set it to true")


class TrainTestSplitResult(Struct, frozen=True, kw_only=True):
    """The result of `train_test_split`."""

    train_rows: int
    test_rows: int
    train_paths: dict[str, str]
    test_paths: dict[str, str]


def _kind(value: Value) -> str:
    return {bool: "bool", int: "number", float: "number", str: "text"}[type(value)]


ROWS = "every party, and readers of the result, learn the number of rows before and after"
STRATA = (
    "with stratify every party learns which rows were chosen, which depends on the column; who knows random_state can "
    "compare what values it might hold with that, so leave random_state out where they are secret; a value in fewer "
    "rows than SFWORKER_MIN_GROUP_ROWS is refused, and who reads the error learns that there is one"
)
FEATURE_FILTER = register(
    TaskType(
        name="feature_filter",
        summary="Keeps or drops columns",
        params=FeatureFilterParams,
        result=FeatureFilterResult,
        disclosures=(ALONE,),
    )
)
CONDITION_FILTER = register(
    TaskType(
        name="condition_filter",
        summary="Keeps the rows that satisfy a condition on one party's column",
        params=ConditionFilterParams,
        result=ConditionFilterResult,
        disclosures=(
            ROWS,
            "every party learns which rows satisfy the condition; where fewer do than SFWORKER_MIN_GROUP_ROWS, or "
            "none, or some but fewer do not, all fails, and who reads the error learns that",
            FLOOR,
        ),
    )
)
SAMPLE = register(
    TaskType(
        name="sample",
        summary="Chooses rows at random",
        params=SampleParams,
        result=SampleResult,
        disclosures=(
            ROWS,
            "every party learns which rows were chosen; with stratify and replace also how often, by which it can tell "
            "rows of rare values from those of others",
            STRATA,
            FLOOR,
        ),
    )
)
TRAIN_TEST_SPLIT = register(
    TaskType(
        name="train_test_split",
        summary="Splits the rows in a part to train with and a part to test with",
        params=TrainTestSplitParams,
        result=TrainTestSplitResult,
        disclosures=(ROWS, "every party learns which rows are in which part", STRATA, FLOOR),
    )
)
