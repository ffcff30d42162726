"""Statistics of tables: each party's own columns, and what ties several parties' columns together.

Runs in the daemon and in party processes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sfworker.catalog.base import (
    EXACT_COUNTS,
    FINE_FIGURES,
    FLOOR,
    Arithmetic,
    ColumnName,
    ColumnRef,
    PartyColumns,
    PartyColumnsIfAny,
    PartyPaths,
    TaskParams,
    TaskType,
    check_features,
    register,
    require_parties,
)
from sfworker.catalog.preprocessing import ColumnType, ColumnTypes, TableParams
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName

Statistic = Literal[
    "count_na",
    "na_ratio",
    "nunique",
    "min",
    "max",
    "mean",
    "var",
    "std",
    "sem",
    "cv",
    "skew",
    "kurtosis",
    "q1",
    "q2",
    "q3",
    "moment_2",
    "moment_3",
    "moment_4",
    "central_moment_2",
    "central_moment_3",
    "central_moment_4",
    "sum",
    "sum_2",
    "sum_3",
    "sum_4",
]
Aggregation = Literal["sum", "mean", "var", "min", "max"]
Keys = Annotated[PartyColumnsIfAny, Meta(description="Columns that are no features, such as ids.")]
Features = Annotated[
    PartyColumnsIfAny | None,
    Meta(description="Feature columns by party; a party left out has none. Default: every column that is no key."),
]


# --- each party's own columns


class TableStatisticsParams(TableParams, tag="table_statistics", frozen=True, kw_only=True):
    """Describes each column of the parties' files; rows of different parties need not belong together.

    Figures are those of pandas: of the cells that are not missing; `var` and `std` with n - 1, `skew` and `kurtosis`
    without bias. Columns of text and truth values are counted only.
    """

    keys: Keys = field(default_factory=dict)
    features: Features = None
    statistics: Annotated[
        Annotated[list[Statistic], Meta(min_length=1)] | None,
        Meta(description="The figures that leave the parties. Default: all."),
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        for name in ("keys", "features"):
            self.require_inputs(name, getattr(self, name) or {})
        check_features(self.features, self.keys)


class ColumnStatistics(Struct, frozen=True, kw_only=True):
    """One column. Figures that were not asked for, or that the column does not have, are null."""

    datatype: ColumnType
    total_count: int
    """Rows."""
    count: int
    """Rows with a value."""
    count_na: int | None = None
    na_ratio: float | None = None
    nunique: int | None = None
    """Different values."""
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    var: float | None = None
    std: float | None = None
    sem: float | None = None
    """Standard error of the mean."""
    cv: float | None = None
    """Coefficient of variation: std / mean."""
    skew: float | None = None
    kurtosis: float | None = None
    q1: float | None = None
    q2: float | None = None
    """The median."""
    q3: float | None = None
    moment_2: float | None = None
    """Mean of the squares; 3 and 4 alike."""
    moment_3: float | None = None
    moment_4: float | None = None
    central_moment_2: float | None = None
    """Mean of the squared distances from the mean; 3 and 4 alike."""
    central_moment_3: float | None = None
    central_moment_4: float | None = None
    sum: float | None = None
    sum_2: float | None = None
    """Sum of the squares; 3 and 4 alike."""
    sum_3: float | None = None
    sum_4: float | None = None


class TableStatisticsResult(Struct, frozen=True, kw_only=True):
    """The result of `table_statistics`."""

    statistics: dict[str, dict[str, ColumnStatistics]]
    """By party and column."""


class PopulationStabilityParams(TaskParams, tag="population_stability", frozen=True, kw_only=True):
    """Population stability index of numeric columns between two files of the same party.

    Index: sum over bins of (test - base) * ln(test / base), of shares in the rows; in the logarithm a share counts as
    0.001 at least. Missing cells are a bin of their own. Rows of different parties need not belong together.
    """

    input_paths: Annotated[
        PartyPaths, Meta(min_length=1, description="The base: file of each party whose columns are compared.")
    ]
    test_paths: Annotated[PartyPaths, Meta(description="What is compared with the base: file of the same party.")]
    keys: Keys = field(default_factory=dict)
    features: Features = None
    bin_num: Annotated[
        int, Meta(ge=2, le=100, description="Bins of equally many rows of the base; fewer where values repeat.")
    ] = 10
    split_points: Annotated[
        dict[PartyName, dict[ColumnName, Annotated[list[float], Meta(min_length=1, max_length=1000)]]],
        Meta(description="Ascending edges between bins of a column, instead of `bin_num`; each belongs to the left."),
    ] = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("test_paths", self.test_paths, self.input_paths)
        for name in ("test_paths", "keys", "features", "split_points"):
            require_parties("input_paths", self.input_paths, getattr(self, name) or {})
        check_features(self.features, self.keys)
        for party, columns in self.split_points.items():
            for column, points in columns.items():
                if sorted(set(points)) != points:
                    raise ParameterValidationError(
                        f"task_config.split_points.{party}: edges of column {column!r} have to ascend"
                    )


class StabilityBin(Struct, frozen=True, kw_only=True):
    """Values above `left`, up to and with `right`; both null for missing cells, one null where it has no end."""

    left: float | None
    right: float | None
    missing: bool
    base_ratio: float
    test_ratio: float
    psi: float


class Stability(Struct, frozen=True, kw_only=True):
    """One column."""

    psi: float
    """Sum over the bins."""
    bins: list[StabilityBin]


class PopulationStabilityResult(Struct, frozen=True, kw_only=True):
    """The result of `population_stability`."""

    stability: dict[str, dict[str, Stability]]
    """By party and column."""


# --- several parties' columns


class _AlignedParams(TaskParams, frozen=True, kw_only=True):
    """Row n of every party's file is about the same case, as after `psi`; no cell is missing."""

    input_paths: Annotated[PartyPaths, Meta(description="CSV, Parquet or ORC file of each party, with a header.")]
    keys: Keys = field(default_factory=dict)
    features: Features = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        check_features(self.features, self.keys)


class PearsonCorrelationParams(_AlignedParams, tag="pearson_correlation", frozen=True, kw_only=True):
    """Pearson's correlation of all pairs of columns of all parties.

    Row n of every party's file is about the same case, as after `psi`; no cell is missing.
    """


class PearsonCorrelationResult(Struct, frozen=True, kw_only=True):
    """The result of `pearson_correlation`."""

    rows: int
    columns: list[ColumnRef]
    correlation: list[list[float | None]]
    """In the order of `columns`; null where a column is constant."""
    arithmetic: Arithmetic
    warnings: list[str]
    """A sentence for each column without a figure."""


class VifParams(_AlignedParams, tag="vif", frozen=True, kw_only=True):
    """Variance inflation factor of each column among all columns of all parties.

    It is the diagonal of the inverse of the correlations. Row n of every party's file is about the same case; no cell
    is missing. An SPU with FM128 and 40 fraction bits tells factors up to a million.
    """


class VifResult(Struct, frozen=True, kw_only=True):
    """The result of `vif`."""

    rows: int
    vif: dict[str, dict[str, float | None]]
    """By party and column; null where the column is constant or the others tell it."""
    arithmetic: Arithmetic
    warnings: list[str]
    """A sentence for each column without a figure."""


class PValueParams(TaskParams, tag="p_value", frozen=True, kw_only=True):
    """P values of a model's coefficients: Student's t of a linear, Wald's z of a logistic regression.

    They are right for the rows that the model was trained with, of a model without penalty and weights that has
    converged: one of `ss_glm`, or of `ss_lr` after many epochs with a `batch_size` of all rows and `sig_type` real. Of
    any other model they mean nothing, and nothing here can tell. Scaling the columns changes no p value; that of the
    intercept is of the model in the columns' own units. Where the envelope's `runtime_config` says nothing else, it
    holds what it does for `trained_by`.
    """

    input_paths: Annotated[PartyPaths, Meta(description="The file of each party that the model was trained with.")]
    model_path: Annotated[PartyPaths, Meta(description="Directory of each party that the training has written.")]
    trained_by: Annotated[
        Literal["ss_lr", "ss_glm"],
        Meta(description="The training's task type; of ss_glm, only Bernoulli without offset has p values here."),
    ] = "ss_lr"

    def computes_as(self) -> str:
        return self.trained_by

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("model_path", self.model_path, parties)


class PValueResult(Struct, frozen=True, kw_only=True):
    """The result of `p_value`."""

    rows: int
    regression: Literal["logistic", "linear"]
    p_values: dict[str, dict[str, float | None]]
    """By party and column; null where the column is constant or the others tell it."""
    intercept: float | None
    arithmetic: Arithmetic
    warnings: list[str]
    """A sentence for each coefficient without a p value."""


class GroupbyStatisticsParams(TaskParams, tag="groupby_statistics", frozen=True, kw_only=True):
    """Figures of value columns by groups that another party's key columns make; a group's size is always one of them.

    Row n of every party's file is about the same case, as after `psi`. Rows with a missing key are in no group, as in
    pandas; `var` is with n - 1. Figures are exact to the last digits, whatever magnitudes a column mixes, in FM64 and
    FM128. The cost grows with rows times groups; `var` costs more than `sum` and `mean`, `min` and `max` much more.
    """

    input_paths: Annotated[PartyPaths, Meta(description="File of each party that `by` or `values` names.")]
    by: Annotated[PartyColumns, Meta(description="The columns that make the groups, of one party.")]
    values: Annotated[PartyColumns, Meta(min_length=1, description="The columns to aggregate, by party.")]
    aggregations: Annotated[
        list[Aggregation],
        Meta(
            min_length=1,
            description="Figures of each column and group.",
            extra_json_schema={"default": ["sum", "mean"]},  # no schema is made from a function
        ),
    ] = field(default_factory=lambda: ["sum", "mean"])
    min_group_size: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Smaller groups are left out: figures of few rows tell single ones.")
    ] = 5
    max_groups: Annotated[int, Meta(ge=1, le=10_000, description="More groups than this are an error.")] = 1000
    column_types: Annotated[
        ColumnTypes,
        Meta(
            description="Types of columns of `by`, under its party, where those that the cells have are not the right "
            "ones; `values` are numbers."
        ),
    ] = field(default_factory=dict)

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if len(self.by) != 1:
            raise ParameterValidationError("task_config.by: the columns of exactly one party make the groups")
        require_parties("input_paths", self.input_paths, [*self.by, *self.values])
        require_parties("by", self.by, self.column_types)
        for name in ("by", "values"):
            for party, columns in getattr(self, name).items():
                if len(set(columns)) != len(columns):
                    raise ParameterValidationError(f"task_config.{name}.{party}: names a column twice")
        [(party, columns)] = self.by.items()
        measured = set(self.values.get(party, []))
        for column in columns:
            if column in measured:
                raise ParameterValidationError(
                    f"task_config.values.{party}: column {column!r} is in `by`; leave it out"
                )


class GroupValues(Struct, frozen=True, kw_only=True):
    """One column in one group; figures that were not asked for are null."""

    sum: float | None = None
    mean: float | None = None
    var: float | None = None
    """Null in a group of one row. Any figure is null where it is beyond the largest number there is."""
    min: float | None = None
    max: float | None = None


class Group(Struct, frozen=True, kw_only=True):
    """The rows with one combination of keys."""

    keys: list[str | float | int | bool]
    """In the order of `by`."""
    count: int
    values: dict[str, dict[str, GroupValues]]
    """By party and column."""


class GroupbyStatisticsResult(Struct, frozen=True, kw_only=True):
    """The result of `groupby_statistics`."""

    by: list[str]
    groups: list[Group]
    """Sorted by keys."""
    suppressed_groups: int
    """Groups that are smaller than `min_group_size`, or than the operator lets be revealed."""
    warnings: list[str]
    """A sentence for each column whose numbers are too far apart for exact figures."""


ROWS = "every party learns the number of rows and how many columns each party has"
ANSWERED_BY = "the first party of sf_init_config.parties, and readers of the result, learn"
TABLE_STATISTICS = register(
    TaskType(
        name="table_statistics",
        summary="Describes columns: counts, moments, quartiles, extremes",
        params=TableStatisticsParams,
        result=TableStatisticsResult,
        disclosures=(
            f"{ANSWERED_BY} names, types and `statistics` of all columns; minimum, maximum and quartiles are "
            "values of single rows, and in a file of few rows the other figures tell them, too",
            f"{FLOOR}; so is a column with fewer values than that, unless it has none",
        ),
    )
)
POPULATION_STABILITY = register(
    TaskType(
        name="population_stability",
        summary="Compares the distribution of columns in two files (population stability index)",
        params=PopulationStabilityParams,
        result=PopulationStabilityResult,
        disclosures=(
            f"{ANSWERED_BY} names of columns, edges of bins, which are values of the base unless `split_points` gives "
            "them, and the share of each bin in either file",
            f"{FLOOR}; so is a column with a bin or missing cells of fewer rows than SFWORKER_MIN_BIN_ROWS, unless "
            "it is empty",
        ),
    )
)
PEARSON_CORRELATION = register(
    TaskType(
        name="pearson_correlation",
        summary="Correlates all columns of all parties",
        params=PearsonCorrelationParams,
        result=PearsonCorrelationResult,
        devices=frozenset({"spu"}),
        spu_defaults=FINE_FIGURES,
        disclosures=(
            ROWS,
            f"{ANSWERED_BY} names of columns, which are constant, and the correlation of each pair",
            FLOOR,
        ),
    )
)
VIF = register(
    TaskType(
        name="vif",
        summary="Tells how much of each column the other columns explain (variance inflation factor)",
        params=VifParams,
        result=VifResult,
        devices=frozenset({"spu"}),
        spu_defaults=FINE_FIGURES,
        disclosures=(ROWS, f"{ANSWERED_BY} names of columns, which are constant, and each column's factor", FLOOR),
    )
)
P_VALUE = register(
    TaskType(
        name="p_value",
        summary="Tells how significant the coefficients of a linear or logistic regression are",
        params=PValueParams,
        result=PValueResult,
        devices=frozenset({"spu"}),
        disclosures=(
            ROWS,
            "every party learns the model's id and kind",
            f"{ANSWERED_BY} names of columns, each coefficient's p value, not the coefficients, and which "
            "columns' means are so many times their deviations that the intercept has none",
            FLOOR,
        ),
    )
)
GROUPBY_STATISTICS = register(
    TaskType(
        name="groupby_statistics",
        summary="Aggregates columns by groups that another party knows",
        params=GroupbyStatisticsParams,
        result=GroupbyStatisticsResult,
        devices=frozenset({"spu"}),
        spu_defaults=EXACT_COUNTS,
        disclosures=(
            ROWS,
            "every party learns how many groups there are, and owners of `values` the size of each, not its keys",
            "owners of `values` and the party of `by` learn the `aggregations` of each group; those owners learn them "
            "exactly, as sums of their values and, for `var`, of squares",
            "readers of the result learn the groups' keys and sizes, their `aggregations`, how many groups are "
            "smaller than `min_group_size` and which columns hold numbers 1e22 times apart; `min` and `max` are values "
            "of single rows",
            "groups of fewer rows than SFWORKER_MIN_GROUP_ROWS are left out as those smaller than `min_group_size` "
            "are; where none is left, all fails, and readers of the error learn that",
            FLOOR,
        ),
    )
)
