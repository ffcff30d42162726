"""Applies, saves and reads fitted rules by which a party's columns are replaced. Runs in party processes.

A rule is data of its own party, saved as `manifest.json` in a directory of that party. Nothing is pickled, because
others who can write to the party's data root may write that directory.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from sfworker import limits
from sfworker.catalog.preprocessing import FITTING, ColumnType, Value
from sfworker.errors import InputDataError, ModelMismatchError
from sfworker.models import saved
from sfworker.party.context import JobContext
from sfworker.party.data_roots import saving
from sfworker.tables import files
from sfworker.tables.own_tables import OwnTable, with_input

MANIFEST = "manifest.json"
FORMAT = 1
Column: TypeAlias = pa.ChunkedArray
Replaced: TypeAlias = dict[str, Any]
"""New columns by name, in order, which take the place of the rule's column."""


class Rule(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Replaces one column."""

    column: str
    type: ColumnType
    """Type of the column that the rule was fitted on."""

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        """Return the replacement of some rows of the column, of this rule's type, which begin with row `first`.

        Raises InputDataError that begins with `field`.
        """
        raise NotImplementedError


class Standard(Rule, tag="standard", frozen=True, kw_only=True):
    """Scales a column like scikit-learn's StandardScaler."""

    mean: float
    scale: float

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        return {self.column: _or_missing((column.to_numpy() - self.mean) / self.scale)}


class MinMax(Rule, tag="min_max", frozen=True, kw_only=True):
    """Scales a column like scikit-learn's MinMaxScaler."""

    scale: float
    min: float

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        return {self.column: _or_missing(column.to_numpy() * self.scale + self.min)}


class Fill(Rule, tag="fill", frozen=True, kw_only=True):
    """Puts a value in place of missing ones."""

    value: Value

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        return {self.column: pc.fill_null(column, pa.scalar(self.value, column.type))}


class OneHot(Rule, tag="one_hot", frozen=True, kw_only=True):
    """Puts a column of 0 and 1 for each category or group of categories. A missing value is 0 in all of them."""

    columns: dict[str, list[Value]]
    """The categories of each new column."""
    dropped: list[Value]
    """Known categories without a column."""
    handle_unknown: Literal["error", "ignore"]

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        groups = [*self.columns.values(), self.dropped]
        codes = _codes(self, field, column, first, [category for group in groups for category in group])
        # A code of -1 (missing or unknown) takes the last element, -1, which is no column's number.
        group_of = np.append(np.repeat(np.arange(len(groups)), [len(group) for group in groups]), -1)
        group = group_of[codes]
        return {name: pa.array((group == number).astype(np.int8)) for number, name in enumerate(self.columns)}


class Replace(Rule, tag="replace", frozen=True, kw_only=True):
    """Puts a number in place of each category."""

    categories: list[Value]
    values: list[int | float]
    other: int | float | None
    """Replacement of missing values and of unknown categories, if those are no error. None is a missing value."""
    handle_unknown: Literal["error", "ignore"]

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        codes = _codes(self, field, column, first, self.categories)
        # The modulo turns a code of -1 (missing or unknown) into the position of `other`, the last.
        return {self.column: pa.array([*self.values, self.other]).take(pa.array(codes % (len(self.values) + 1)))}


class Bins(Rule, tag="bins", frozen=True, kw_only=True):
    """Puts a number in place of each range of numbers."""

    edges: list[float]
    """Limits between two ranges, each of which belongs to the range below it."""
    values: list[int | float]
    """Replacements of the ranges, one more than edges."""
    other: int | float | None
    """Replacement of missing values. None is a missing value."""

    def apply(self, field: str, column: Column, first: int) -> Replaced:
        numbers = column.to_numpy()
        codes = np.where(np.isnan(numbers), len(self.values), np.searchsorted(self.edges, numbers, side="left"))
        return {self.column: pa.array([*self.values, self.other]).take(pa.array(codes))}


AnyRule: TypeAlias = Standard | MinMax | Fill | OneHot | Replace | Bins


class Manifest(Struct, frozen=True, kw_only=True):
    """The rules of one party, in the order of its columns."""

    task_type: str
    rule_id: str
    party: str
    parties: list[str]
    rules: list[AnyRule]
    format: int = FORMAT

    def unknown_as(self, handled: Literal["error", "ignore"] | None) -> Manifest:
        """Return the rules with unknown categories `handled` another way than that they were fitted with."""
        if handled is None:
            return self
        rules = [
            msgspec.structs.replace(rule, handle_unknown=handled) if isinstance(rule, OneHot | Replace) else rule
            for rule in self.rules
        ]
        return msgspec.structs.replace(self, rules=rules)


class _Kind(Struct, frozen=True, kw_only=True):
    task_type: str
    format: int


def write_table(context: JobContext[Any], table: OwnTable, rules: list[AnyRule]) -> None:
    """Write a local party's table with its columns replaced as `rules` say. Raises InputDataError."""
    output = context.output(table.party, "output_paths", context.params.output_paths[table.party])
    types = {rule.column: rule.type for rule in rules}
    made = sum(len(rule.columns) for rule in rules if isinstance(rule, OneHot))
    if made + len(table.names) > limits.used().columns:
        raise limits.refusal(table.field, "the output", "columns", "encode fewer columns")
    most = limits.used().expanded(table.path.stat().st_size)

    def replaced(first: int, rows: pa.Table) -> dict[str, Replaced]:
        if (first + rows.num_rows) * made > most:
            raise limits.refusal(table.field, "the output", "expanded_bytes", "encode columns of fewer categories")
        return {rule.column: rule.apply(table.field, rows.column(rule.column), first) for rule in rules}

    table.write(output, types, replaced)


def save(context: JobContext[Any], task_type: str, rules: dict[str, list[AnyRule]]) -> str | None:
    """Save the local parties' rules where `model_path` says.

    Returns their id, which is revealed to every party, or None where none are saved.
    """
    paths = context.params.model_path
    if paths is None:
        return None
    identity = saved.drawn_id(context)
    for party, own in rules.items():
        manifest = Manifest(task_type=task_type, rule_id=identity, party=party, parties=context.parties, rules=own)
        directory = context.output_directory(party, "model_path", paths[party], holds=MANIFEST)
        with saving(f"task_config.model_path.{party}"):
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return identity


def read(context: JobContext[Any], own: dict[str, OwnTable]) -> tuple[dict[str, Manifest], str]:
    """Read the local parties' rules and their id, which is revealed to every party.

    Raises ModelMismatchError, saying which, where they do not fit this job, its files or each other.
    """
    found = {party: _read(context, party, table) for party, table in own.items()}
    identities = context.reveal([context.at(party, _identity, found.get(party)) for party in with_input(context)])
    if len(set(identities)) > 1:
        raise ModelMismatchError("task_config.model_path: the parties' rules were not fitted by the same job")
    return found, identities[0]


def require_types(table: OwnTable, manifest: Manifest) -> None:
    """Raise ModelMismatchError where a column that a rule replaces does not have the type of the fit."""
    types = {rule.column: rule.type for rule in manifest.rules}
    try:
        deque(table.each_column(list(types), types), maxlen=0)
    except InputDataError as error:
        raise ModelMismatchError(f"{error} (the rule was fitted on a column of this type)") from None


def _read(context: JobContext[Any], party: str, table: OwnTable) -> Manifest:
    field = f"task_config.model_path.{party}"
    path: Path = context.input_directory(party, "model_path", context.params.model_path[party]) / MANIFEST
    try:
        content = path.read_bytes()
        # Read by itself first, so that another job's manifest is named as that and not as a broken one.
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.task_type not in FITTING:
            raise ModelMismatchError(f"{field}: is of task type {kind.task_type}; name what a preprocessing job saved")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise ModelMismatchError(f"{field}: holds no fitted rule of this version; fit again") from None
    here = {"party": party, "parties": context.parties, "format": FORMAT}
    saved.require_same(field, "rule", manifest, here, "use what it was fitted with, or fit again")
    for rule in manifest.rules:
        if rule.column not in table.names:
            raise ModelMismatchError(f"{table.field}: lacks column {rule.column!r}, which the rule was fitted on")
    return manifest


def _codes(
    rule: OneHot | Replace, field: str, column: Column, first: int, categories: list[Value]
) -> npt.NDArray[np.int64]:
    """Return the position of each cell's category, -1 where it is missing or unknown. Raises InputDataError."""
    index = pc.index_in(column, value_set=pa.array(categories, files.TYPES[rule.type]))
    if rule.handle_unknown == "error":
        unknown = pc.and_(index.is_null(), column.is_valid())
        if pc.any(unknown).as_py():
            row = first + pc.index(unknown, True).as_py() + 1
            raise InputDataError(
                f"{field}: column {rule.column!r} holds a category in row {row} that is not among the fitted ones; "
                f"correct it, or set handle_unknown to `ignore`"
            )
    codes: npt.NDArray[np.int64] = pc.fill_null(index, -1).to_numpy().astype(np.int64)
    return codes


def _identity(manifest: Manifest | None) -> str | None:
    return None if manifest is None else manifest.rule_id


def _or_missing(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, from_pandas=True)  # which turns NaN into a missing value
