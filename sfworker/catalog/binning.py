"""`binning`: ranges or categories in place of values, by their number or their weight of evidence (WOE).

Runs in the daemon and in party processes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sfworker.catalog.base import EXACT_COUNTS, FLOOR, ColumnRef, PartyColumnsIfAny, TaskType, register
from sfworker.catalog.preprocessing import ALONE, RULE_ID, FitParams, FitResult, HandleUnknown
from sfworker.errors import ParameterValidationError


class BinningParams(FitParams, tag="binning", frozen=True, kw_only=True):
    """Replaces each feature by its bin: a range of numbers, or a category of text.

    Bins are those of pandas: `qcut` (equal_frequency, equal edges dropped) and `cut` (equal_range); `chimerge` merges
    neighbours of equal_frequency whose labels are alike. Numbers outside all bins belong to the nearest. Missing values
    stay missing, or get a WOE of their own.

    WOE is ln((positives of the bin / all positives) / (negatives of the bin / all negatives)); in a bin without one of
    the two, half a row is added to both. `woe` and `chimerge` need `label` and `features`, rows that are aligned, as
    after `psi`, and `spu_config` where a party without the label has features.
    """

    label: Annotated[
        ColumnRef | None,
        Meta(description="The label, which is no feature. `woe` and `chimerge` need one, of 0 and 1. Default: none."),
    ] = None
    features: Annotated[
        PartyColumnsIfAny | None,
        Meta(
            description="Columns to change, by party; of a party left out, none. `woe` and `chimerge` need them named. "
            "Default of the others: every column that is neither key nor label."
        ),
    ] = None
    method: Annotated[
        Literal["equal_frequency", "equal_range", "chimerge"],
        Meta(description="How bins are found; chimerge: by label."),
    ] = "equal_frequency"
    substitution: Annotated[
        Literal["bin", "woe"], Meta(description="What replaces a value: its bin's number from 0, or its bin's WOE.")
    ] = "bin"
    bin_num: Annotated[
        int, Meta(ge=2, le=1000, description="Bins of numbers that equal_frequency and equal_range make, at most.")
    ] = 10
    chimerge_init_bins: Annotated[int, Meta(ge=3, le=1000, description="Bins that chimerge begins with, at most.")] = (
        100
    )
    chimerge_target_bins: Annotated[
        int, Meta(ge=2, le=1000, description="Bins of numbers at which chimerge stops.")
    ] = 10
    chimerge_target_pvalue: Annotated[
        float,
        Meta(gt=0, lt=1, description="chimerge stops where even the most alike bins differ with a smaller p-value."),
    ] = 0.1
    min_bin_rows: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="With `woe`, smaller bins, or fewer missing values, at a party without the label are refused, "
            "because their WOE would reveal individual labels. With `reveal_bins`, at any party.",
        ),
    ] = 5
    reveal_bins: Annotated[
        Literal["none", "counts", "ranges"],
        Meta(
            description="What readers of the result learn of each bin, where a label is used: nothing; its rows, its "
            "positive ones and its WOE; or also its range or category."
        ),
    ] = "none"

    constant_columns: Annotated[
        Literal["error", "one_bin"],
        Meta(description="Whether columns of one number are refused, all in one error, or get a single bin each."),
    ] = "error"
    handle_unknown: HandleUnknown = "error"

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if self.method == "chimerge" and self.chimerge_target_bins >= self.chimerge_init_bins:
            raise ParameterValidationError("task_config.chimerge_target_bins: has to be less than chimerge_init_bins")
        if not self.uses_label:
            if self.reveal_bins != "none":
                raise ParameterValidationError(
                    "task_config.reveal_bins: goes with method chimerge or substitution woe only; leave it out"
                )
            return
        if self.label is None:
            raise ParameterValidationError("task_config.label: required by method chimerge and by substitution woe")
        self.require_inputs("label.party", {self.label.party: None})
        if not any((self.features or {}).values()):
            raise ParameterValidationError("task_config.features: required by method chimerge and by substitution woe")

    @property
    def uses_label(self) -> bool:
        return self.method == "chimerge" or self.substitution == "woe"


class Bin(Struct, frozen=True, kw_only=True):
    """One bin of a feature: numbers above `left`, up to and with `right`, or one category.

    These are null where `reveal_bins` is `counts`; `left` and `right` also where the bin has no end.
    """

    party: str
    column: str
    bin: int | None
    """Number from 0; null for missing values."""
    left: float | None = None
    right: float | None = None
    category: bool | str | None = None
    rows: int
    positives: int
    woe: float


class BinningResult(FitResult, frozen=True, kw_only=True):
    """The result of `binning`."""

    iv: dict[str, dict[str, float]] | None
    """Information value of each feature by party, missing values left out; null where no label is used."""
    bins: list[Bin] | UnsetType = UNSET
    """The bins with their rows; left out unless `reveal_bins` asks for them."""
    warnings: list[str]


BINNING = register(
    TaskType(
        name="binning",
        summary="Puts values in bins, by number or by weight of evidence",
        params=BinningParams,
        result=BinningResult,
        spu_defaults=EXACT_COUNTS,
        disclosures=(
            RULE_ID,
            f"without chimerge or woe {ALONE}",
            "with constant_columns one_bin readers of the result learn which features have a single bin",
            "with either every party learns the number of rows and, before chimerge merges, of each feature's bins",
            "with either the label's party learns how many rows, and how many positive ones, each bin has, before "
            "chimerge merges; not where the bins lie",
            "with chimerge a feature's party learns which of its bins are merged",
            "with woe a feature's party learns the WOE of its own bins, which tells how many rows of each are positive",
            "with either readers of the result learn each feature's information value",
            "with reveal_bins readers of the result learn the rows, the positive rows and the WOE of each bin and of "
            "missing values, with ranges also where it lies: edges, which can be values of single rows, and categories",
            "with either a feature with a bin or missing values of fewer rows than SFWORKER_MIN_BIN_ROWS at a party "
            "without the label, with reveal_bins at any party, is refused, where chimerge starts from bins that are no "
            "smaller; so are labels that fewer rows than SFWORKER_MIN_GROUP_ROWS have; who reads the error learns that",
            f"with either {FLOOR}",
        ),
    )
)
