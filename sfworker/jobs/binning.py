"""Implements `binning`, where the party of a column bins it and the SPU counts another's positive labels by bin.

Runs in party processes. SecretFlow's VertWoeBinning holds rows x bins of all features at once, sends positive rates,
too, and with HEU and three parties it sends one party's bins to another in the clear. So only its ChiMerge is used, and
rows come in batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import secretflow
from msgspec import UNSET
from scipy.stats import chi2
from secretflow.preprocessing.binning.kernels.chi_merge import chi_merge

from sfworker.catalog.binning import Bin, BinningParams, BinningResult
from sfworker.catalog.preprocessing import Value
from sfworker.errors import InputDataError
from sfworker.models import rules
from sfworker.models.rules import AnyRule, Column
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import aligned, files, labels, own_tables
from sfworker.tables.own_tables import OwnTable, UnfitColumn, require_values

MOST_CATEGORIES = 1_000
CELLS = 1_000_000
"""Cells (rows x bins) that are shared at a time."""
Counts: TypeAlias = npt.NDArray[np.signedinteger[Any]]
Range: TypeAlias = dict[str, Any]
"""The fields of `Bin` that say where it lies."""


@dataclass(frozen=True)
class Binned:
    """One column in bins."""

    column: str
    edges: list[float] | None
    """Edges between bins of numbers, each belonging to the bin below, or None for a column of categories."""
    categories: list[Value]
    """Bins of a column that holds no numbers."""
    type: Any
    codes: npt.NDArray[np.int16]
    """Bin of each row, `bins` where the value is missing. All columns' are in memory together, so they are short."""

    @property
    def bins(self) -> int:
        return len(self.categories) if self.edges is None else len(self.edges) + 1

    def merged(self, removed: list[int]) -> Binned:
        """Return the column without the edges above the bins `removed`."""
        if self.edges is None or not removed:
            return self
        stays = np.ones(self.bins, dtype=np.int64)
        stays[removed] = 0
        # A bin's new number is the number of bins below it that stay. That of missing values is last.
        new = np.append(np.cumsum(stays) - stays, stays.sum()).astype(np.int16)
        edges = [edge for edge, kept in zip(self.edges, stays, strict=False) if kept]
        return Binned(self.column, edges, [], self.type, new[self.codes])

    def ranges(self) -> list[Range]:
        """Return where its bins lie; those of missing values come last and lie nowhere."""
        if self.edges is None:
            return [*({"category": each} for each in self.categories), {}]
        return [*({"left": left, "right": right} for left, right in itertools.pairwise([None, *self.edges, None])), {}]

    def rule(self, params: BinningParams, values: list[int] | list[float], other: float | None) -> AnyRule:
        if self.edges is not None:
            return rules.Bins(column=self.column, type="float", edges=self.edges, values=[*values], other=other)
        return rules.Replace(
            column=self.column,
            type=self.type,
            categories=self.categories,
            values=[*values],
            other=other,
            handle_unknown=params.handle_unknown,
        )


@dataclass(frozen=True)
class Evidence:
    """Figures of one column's bins that come from the labels."""

    removed: list[int]
    """Bins that were merged with the next one."""
    woe: list[float]
    """WOE of each bin that is left, at another party only where it substitutes the bins."""
    missing: float
    """WOE of missing values, 0 where there were none."""
    iv: float = 0.0
    counts: list[tuple[int, int]] = field(default_factory=list)
    """Rows and positive ones of each bin that is left, then of missing values, if any.

    These and `iv` stay with the label's party.
    """


@TaskDispatcher.register_task("binning")
def binning(context: JobContext[BinningParams]) -> BinningResult | None:
    """Bin columns. With a label, its party learns every bin's counts, and a feature's party its own bins' WOE."""
    params = context.params
    own = own_tables.local_tables(context)
    # The label's party learns the rows of the others' bins, and readers those of all bins that are revealed.
    holder = params.label.party if params.uses_label and params.label else None
    is_told = {party: holder is not None and (party != holder or params.reveal_bins != "none") for party in own}
    least = {party: context.floors.bin_rows if is_told[party] else 0 for party in own}
    binned = {
        party: table.each(_columns(context, table), partial(_bin, params, least[party])) for party, table in own.items()
    }
    evidence = _weigh(context, own, binned) if params.uses_label else {}
    found = {
        party: [_rule(params, *pair) for pair in zip(columns, evidence.get(party, [None] * len(columns)), strict=True)]
        for party, columns in binned.items()
    }
    for party, table in own.items():
        rules.write_table(context, table, found[party])
    identity = rules.save(context, "binning", found)
    answering = holder or context.parties[0]
    warnings = _constant_ones(context, answering, binned) if params.constant_columns == "one_bin" else []
    ranges = _ranges(context, answering, binned, evidence) if params.reveal_bins == "ranges" else {}
    if not context.is_local(answering):
        return None
    iv = {
        party: {column: one.iv for column, one in zip((params.features or {})[party], columns, strict=True)}
        for party, columns in evidence.items()
    }
    return BinningResult(
        output_paths=params.output_paths,
        model_path=params.model_path,
        rule_id=identity,
        iv=iv or None,
        bins=UNSET if params.reveal_bins == "none" else _revealed(params, evidence, ranges),
        warnings=warnings,
    )


def _columns(context: JobContext[BinningParams], table: OwnTable) -> Iterator[tuple[str, Column]]:
    """Read the features of a local party. Raises InputDataError, also where there are too few rows."""
    for name, column in table.each_column(table.features(context)):
        if context.params.uses_label:  # otherwise nothing is revealed
            context.require_rows(table.field, len(column))
        yield name, column


def _ranges(
    context: JobContext[BinningParams],
    answering: str,
    binned: dict[str, list[Binned]],
    evidence: dict[str, list[Evidence]],
) -> dict[str, list[list[Range]]]:
    """Return where the bins of each feature lie, which the answering party learns."""
    own = {
        party: [column.merged(one.removed).ranges() for column, one in zip(columns, evidence[party], strict=True)]
        for party, columns in binned.items()
        if party in evidence
    }
    weighed = [party for party in own_tables.with_input(context) if (context.params.features or {}).get(party)]
    return aligned.gather(context, answering, weighed, own)


def _revealed(
    params: BinningParams, evidence: dict[str, list[Evidence]], ranges: dict[str, list[list[Range]]]
) -> list[Bin]:
    """Return all bins as `reveal_bins` asks for them, those of missing values last in their column."""
    return [
        Bin(
            party=party,
            column=column,
            bin=number if number < len(one.woe) else None,
            rows=rows,
            positives=positives,
            woe=woe,
            **(ranges[party][place][number] if ranges else {}),
        )
        for party, columns in evidence.items()
        for place, (column, one) in enumerate(zip((params.features or {})[party], columns, strict=True))
        for number, ((rows, positives), woe) in enumerate(zip(one.counts, [*one.woe, one.missing], strict=False))
    ]


def _constant_ones(context: JobContext[BinningParams], answering: str, binned: dict[str, list[Binned]]) -> list[str]:
    """Return a warning for each column of numbers in one bin. The answering party learns which ones they are."""
    own = {party: [one.column for one in columns if one.edges == []] for party, columns in binned.items()}
    told = aligned.gather(context, answering, own_tables.with_input(context), own)
    return [
        f"column {name!r} of {party} has a single bin, as all or most of its numbers are the same"
        for party, names in told.items()
        for name in names
    ]


def _bin(params: BinningParams, least: int, name: str, column: Column) -> Binned:
    """Bin one column into bins of `least` rows.

    Raises UnfitColumn where it has one number only, too many categories, or a smaller bin.
    """
    binned = _binned(params, name, column)
    if binned.edges is not None and params.method == "chimerge" and least:
        binned = binned.merged(_too_small(_totals(binned)[:-1].tolist(), least))  # it only starts from these bins
    totals = _totals(binned)
    if ((totals > 0) & (totals < least)).any():
        raise UnfitColumn(
            f"has a bin, or missing values, of fewer than {least} rows, of which the operator lets nothing be revealed "
            f"(SFWORKER_MIN_BIN_ROWS); choose fewer bins, fill or group values"
        )
    return binned


def _too_small(rows: list[int], least: int) -> list[int]:
    """Return which bins to merge with the next one so that each has `least` rows, or all are one."""
    removed, kept, gathered = [], [], 0
    for number, count in enumerate(rows[:-1]):
        gathered += count
        if gathered < least:
            removed.append(number)
        else:
            kept.append(number)
            gathered = 0
    if gathered + rows[-1] < least and kept:
        removed.append(kept[-1])
    return sorted(removed)


def _binned(params: BinningParams, name: str, column: Column) -> Binned:
    """Bin one column. Raises UnfitColumn where it has one number only or too many categories."""
    require_values(column)
    kind = files.type_name(column)
    if kind in ("str", "bool"):
        distinct = column.drop_null().unique()
        if len(distinct) > MOST_CATEGORIES:
            raise UnfitColumn(f"has more than {MOST_CATEGORIES} categories; leave it out")
        categories = distinct.take(pc.sort_indices(distinct))
        codes = pc.fill_null(pc.index_in(column, value_set=categories), len(categories)).to_numpy().astype(np.int16)
        return Binned(name, None, categories.to_pylist(), kind, codes)
    numbers = column.cast(pa.float64(), safe=False).to_numpy()
    if np.nanmin(numbers) == np.nanmax(numbers):
        if params.constant_columns == "error":
            raise UnfitColumn("holds one number only; leave it out, or set constant_columns to `one_bin`")
        return Binned(name, [], [], kind, np.isnan(numbers).astype(np.int16))
    inner = _edges(params, numbers)[1:-1]
    codes = np.searchsorted(inner, numbers, side="left").astype(np.int16)
    codes[np.isnan(numbers)] = len(inner) + 1
    binned = Binned(name, inner.tolist(), [], kind, codes)
    if not params.uses_label:
        return binned
    return binned.merged(np.flatnonzero(_totals(binned)[:-1] == 0).tolist())  # an empty bin has no WOE


def _edges(params: BinningParams, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the edges of pandas' `cut` or `qcut`, which would hold all rows several times to find their bins, too."""
    edges: npt.NDArray[np.float64]
    if params.method == "equal_range":
        ends = np.array([np.nanmin(numbers), np.nanmax(numbers)])
        _, edges = pd.cut(ends, params.bin_num, labels=False, retbins=True, duplicates="drop")
    else:
        number = params.chimerge_init_bins if params.method == "chimerge" else params.bin_num
        known = numbers[~np.isnan(numbers)]
        edges = pd.unique(np.quantile(known, np.linspace(0, 1, number + 1), overwrite_input=True))
    return edges


def _rule(params: BinningParams, binned: Binned, evidence: Evidence | None) -> AnyRule:
    if evidence is None:
        return binned.rule(params, list(range(binned.bins)), None)
    merged = binned.merged(evidence.removed)
    if params.substitution == "bin":
        return merged.rule(params, list(range(merged.bins)), None)
    return merged.rule(params, evidence.woe, evidence.missing)


def _weigh(
    context: JobContext[BinningParams], own: dict[str, OwnTable], binned: dict[str, list[Binned]]
) -> dict[str, list[Evidence]]:
    """Return the evidence for the columns of local parties, at the label's party for those of all parties.

    Reveals rows and numbers of bins to every party. Raises InputDataError.
    """
    params = context.params
    assert params.label is not None  # noqa: S101 - checked with the parameters
    holder, ref = params.label.party, params.label
    label = None
    if context.is_local(holder):
        table = own[holder]
        values = files.numbers(table.field, table.path, [ref.column])[:, 0]
        context.require_rows(table.field, len(values))
        label = labels.binary(values, "binning", context.floors.group_rows).astype(np.int8)
    weighed = [party for party in own_tables.with_input(context) if (params.features or {}).get(party)]
    local = {party: binned[party] for party in weighed if party in binned}
    rows, *shapes = _shapes(context, holder, label, weighed, local)
    evidence: dict[str, list[Evidence]] = {}
    if label is not None and holder in local:
        counted = [(one.edges is not None, _totals(one), _totals(one, label)) for one in local[holder]]
        evidence = {holder: [_evidence(params, label, *one) for one in counted]}
        if params.reveal_bins != "none":
            _require_rows(params, holder, evidence[holder])
    for party, bins in zip(weighed, shapes, strict=True):
        if party == holder:
            continue
        told = aligned.gather(context, holder, [party], {party: _described(local.get(party))})
        positives = _secret_positives(context, party, local.get(party), holder, label, rows, bins)
        if label is not None:
            numeric, totals = told[party]
            split = np.cumsum([one + 1 for one in bins])[:-1]
            pairs = (np.split(counts, split) for counts in (totals, context.value_at(holder, positives)))
            evidence[party] = [_evidence(params, label, *one) for one in zip(numeric, *pairs, strict=True)]
            _require_rows(params, party, evidence[party])
        answered = aligned.gather(context, party, [holder], {holder: _told(params, evidence.get(party))})
        if party in local:
            evidence[party] = [Evidence(*one) for one in answered[holder]]
    return evidence


def _shapes(
    context: JobContext[BinningParams],
    holder: str,
    label: Counts | None,
    weighed: list[str],
    local: dict[str, list[Binned]],
) -> list[Any]:
    """Return the number of rows, and each weighed party's bins by feature. Reveals both. Raises InputDataError."""
    lengths = [context.at(holder, _length, label)]
    lengths += [context.at(party, _length, local[party][0].codes if party in local else None) for party in weighed]
    bins = [context.at(party, _bins, local.get(party)) for party in weighed]
    counts, shapes = context.reveal([lengths, bins])
    aligned.require_same_rows(counts)
    return [counts[0], *shapes]


def _secret_positives(
    context: JobContext[BinningParams],
    party: str,
    binned: list[Binned] | None,
    holder: str,
    label: Counts | None,
    rows: int,
    bins: list[int],
) -> Any:
    """Count the positive rows of `party`'s bins for `holder` alone. Missing values are the last bin of each column."""
    spu = context.device_manager.spu({})
    width = sum(bins) + len(bins)
    batch = max(1, min(rows, CELLS // width))
    total = None
    for start in range(0, rows, batch):
        positive = context.at(holder, _padded, label, start, batch)
        select = context.at(party, _select, binned, start, batch, width)
        total = spu(_count)(positive, select) if total is None else spu(_count_on)(total, positive, select)
        if batch < rows:
            # The main thread would run ahead of the SPU and hold all batches before the first is counted.
            secretflow.wait(total)
            if context.is_speaker:
                context.progress(min(1.0, (start + batch) / rows), "rows of a party counted by bin")
    return total.to(context.pyu(holder))  # type: ignore[union-attr]


def _count(positive: Any, select: Any) -> Any:
    return jnp.matmul(positive, select)


def _count_on(total: Any, positive: Any, select: Any) -> Any:
    return total + jnp.matmul(positive, select)


def _padded(label: Counts | None, start: int, batch: int) -> Any:
    """Return a batch of labels as integers, whose sums are exact. All batches have one shape and are compiled once."""
    if label is None:
        return None
    part = label[start : start + batch].astype(np.int32)
    return np.pad(part, (0, batch - len(part)))


def _select(binned: list[Binned] | None, start: int, batch: int, width: int) -> Any:
    """Return a column of 0 and 1 for each bin of each feature, and of its missing values."""
    if binned is None:
        return None
    select, offset = np.zeros((batch, width), dtype=np.int32), 0
    for one in binned:
        codes = one.codes[start : start + batch].astype(np.int64)
        select[np.arange(len(codes)), codes + offset] = 1
        offset += one.bins + 1
    return select


def _totals(binned: Binned, weights: Counts | None = None) -> Counts:
    """Count the rows of each bin, or the positive ones with labels as `weights`. Missing values come last."""
    return np.bincount(binned.codes, weights=weights, minlength=binned.bins + 1).astype(np.int64)


def _evidence(params: BinningParams, label: Counts, numeric: bool, totals: Counts, positives: Counts) -> Evidence:
    """Return the evidence from `totals` and `positives` of each bin, those of missing values last."""
    counts = list(zip(totals[:-1].tolist(), positives[:-1].tolist(), strict=True))
    removed: list[int] = []
    if params.method == "chimerge" and numeric:
        target = chi2.ppf(1 - params.chimerge_target_pvalue, df=1)
        counts, removed = chi_merge(counts, params.chimerge_target_bins, target)
    weigh = partial(_woe, int(label.sum()), int((1 - label).sum()))
    woe, iv = zip(*(weigh(*one) for one in counts), strict=True)
    missing, positive = int(totals[-1]), int(positives[-1])
    return Evidence(
        removed=removed,
        woe=list(woe),
        missing=weigh(missing, positive)[0] if missing else 0.0,
        iv=sum(iv),
        counts=[*counts, *[(missing, positive)] * bool(missing)],
    )


def _woe(all_positive: int, all_negative: int, total: int, positive: int) -> tuple[float, float]:
    """Return the WOE of a bin, and its share of the information value."""
    # Half a row keeps the logarithm finite where all rows of a bin have one label.
    half = 0.5 if positive in (0, total) else 0.0
    positive_share, negative_share = (positive + half) / all_positive, (total - positive + half) / all_negative
    woe = math.log(positive_share / negative_share)
    return woe, (positive_share - negative_share) * woe


def _require_rows(params: BinningParams, party: str, evidence: list[Evidence]) -> None:
    """Raise InputDataError where a bin is so small that its WOE or its counts would tell others single labels."""
    for column, one in zip((params.features or {})[party], evidence, strict=True):
        is_told = params.substitution == "woe" or params.reveal_bins != "none"
        if is_told and min(rows for rows, _ in one.counts) < params.min_bin_rows:
            raise InputDataError(
                f"task_config.features.{party}: column {column!r} has a bin, or missing values, of fewer than "
                f"{params.min_bin_rows} rows (min_bin_rows); choose fewer bins, fill or group values"
            )


def _told(params: BinningParams, evidence: list[Evidence] | None) -> list[Any] | None:
    """Return the part of the evidence that a party without the label learns of its own columns."""
    if evidence is None:
        return None
    if params.substitution == "bin":
        return [[one.removed, [], 0.0] for one in evidence]
    return [[one.removed, one.woe, one.missing] for one in evidence]


def _described(binned: list[Binned] | None) -> tuple[list[bool], Counts] | None:
    """Return which columns hold numbers, and the rows of all bins, as the label's party needs them."""
    if binned is None:
        return None
    return [one.edges is not None for one in binned], np.concatenate([_totals(one) for one in binned])


def _bins(binned: list[Binned] | None) -> list[int] | None:
    return None if binned is None else [one.bins for one in binned]


def _length(values: Counts | None) -> int | None:
    return None if values is None else len(values)
