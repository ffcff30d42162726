"""Implements `scaler`, `encoder`, `fillna` and `preprocessing_apply`, plain computations at the party with the column.

Runs in party processes. The task types join the parties although no column leaves its party. So each process can reach
its own party's data roots only, the same job runs where parties are on machines of their own, and saved rules share an
id.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sfworker.catalog.preprocessing import (
    EncoderParams,
    FillnaParams,
    FitResult,
    PreprocessingApplyParams,
    PreprocessingApplyResult,
    ScalerParams,
    Value,
)
from sfworker.errors import InputDataError
from sfworker.models import rules
from sfworker.models.rules import AnyRule, Column
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import files, own_tables
from sfworker.tables.own_tables import OwnTable, UnfitColumn, require_values

MOST_COLUMNS, MOST_CODES = 1_000, 100_000
"""Most categories of a column for `one_hot` and for the other methods. A column with more holds ids or numbers."""


@TaskDispatcher.register_task("scaler")
def scaler(context: JobContext[ScalerParams]) -> FitResult | None:
    """Scale. No party learns anything of another's columns."""
    return _fit(context, "scaler", partial(_scale, context.params), as_numbers=True)


@TaskDispatcher.register_task("encoder")
def encoder(context: JobContext[EncoderParams]) -> FitResult | None:
    """Encode. No party learns anything of another's columns."""
    return _fit(context, "encoder", partial(_encode, context.params))


@TaskDispatcher.register_task("fillna")
def fillna(context: JobContext[FillnaParams]) -> FitResult | None:
    """Fill. No party learns anything of another's columns."""
    numeric = context.params.strategy in ("mean", "median")
    return _fit(context, "fillna", partial(_fill, context.params), as_numbers=numeric)


@TaskDispatcher.register_task("preprocessing_apply")
def preprocessing_apply(context: JobContext[PreprocessingApplyParams]) -> PreprocessingApplyResult | None:
    """Apply saved rules. Every party learns their id."""
    own = own_tables.local_tables(context)
    manifests, identity = rules.read(context, own)
    for party, table in own.items():
        manifest = manifests[party].unknown_as(context.params.handle_unknown)
        rules.require_types(table, manifest)
        rules.write_table(context, table, manifest.rules)
    if not context.is_speaker:
        return None
    return PreprocessingApplyResult(output_paths=context.params.output_paths, rule_id=identity)


def _fit(
    context: JobContext[Any],
    task_type: str,
    fit_column: Callable[[OwnTable, str, Column], AnyRule],
    *,
    as_numbers: bool = False,
) -> FitResult | None:
    """Fit a rule to each feature, replace the features and save the rules. Raises InputDataError."""
    found: dict[str, list[AnyRule]] = {}
    for party, table in own_tables.local_tables(context).items():
        features = table.features(context)
        columns = table.each_column(features, dict.fromkeys(features, "float") if as_numbers else {})
        found[party] = table.each(columns, partial(fit_column, table))
        rules.write_table(context, table, found[party])
    identity = rules.save(context, task_type, found)
    if not context.is_speaker:
        return None
    return FitResult(output_paths=context.params.output_paths, model_path=context.params.model_path, rule_id=identity)


def _scale(params: ScalerParams, table: OwnTable, name: str, column: Column) -> AnyRule:
    require_values(column)
    values = column.to_numpy().reshape(-1, 1)
    rule: rules.Standard | rules.MinMax
    if params.method == "standard":
        standard = StandardScaler().fit(values)
        offset, scale = float(standard.mean_[0]), float(standard.scale_[0])
        rule = rules.Standard(column=name, type="float", mean=offset, scale=scale)
    else:
        min_max = MinMaxScaler().fit(values)
        offset, scale = float(min_max.min_[0]), float(min_max.scale_[0])
        rule = rules.MinMax(column=name, type="float", min=offset, scale=scale)
    if not np.isfinite([offset, scale]).all():
        raise UnfitColumn("holds numbers too large to be scaled; leave it out")
    return rule


def _encode(params: EncoderParams, table: OwnTable, name: str, column: Column) -> AnyRule:
    require_values(column)
    counted = column.drop_null().value_counts()
    order = pc.sort_indices(counted.field("values"))
    categories: list[Value] = counted.field("values").take(order).to_pylist()
    most = MOST_COLUMNS if params.method == "one_hot" else MOST_CODES
    if len(categories) > most:
        raise UnfitColumn(f"has more than {most} categories; bin it, or leave it out")
    if params.method == "one_hot":
        counts = counted.field("counts").take(order).to_numpy()
        return _one_hot(params, name, column, categories, counts >= params.min_frequency * len(column))
    given = params.categories.get(table.party, {}).get(name)
    return rules.Replace(
        column=name,
        type=files.type_name(column),
        categories=categories if given is None else _fitting(table, name, column, "categories", given),
        values=list(range(len(given or categories))),
        other=None,
        handle_unknown=params.handle_unknown,
    )


def _one_hot(
    params: EncoderParams,
    name: str,
    column: Column,
    categories: list[Value],
    frequent: npt.NDArray[np.bool_],
) -> AnyRule:
    groups = [(f"{name}_{category}", [category]) for category, alone in zip(categories, frequent, strict=True) if alone]
    rare = [category for category, alone in zip(categories, frequent, strict=True) if not alone]
    if rare:
        groups.append((f"{name}_infrequent", rare))
    dropped = groups.pop(0)[1] if params.drop == "first" else []
    columns = dict(groups)
    if len(columns) < len(groups):
        raise UnfitColumn("has a category named `infrequent`; rename it")
    return rules.OneHot(
        column=name,
        type=files.type_name(column),
        columns=columns,
        dropped=dropped,
        handle_unknown=params.handle_unknown,
    )


def _fill(params: FillnaParams, table: OwnTable, name: str, column: Column) -> AnyRule:
    value = params.fill_value
    if value is not None:
        [value] = _fitting(table, name, column, "fill_value", [value])
    else:
        require_values(column)
        value = _figure(params.strategy, column)
    return rules.Fill(column=name, type=files.type_name(column), value=value)


def _figure(strategy: str, column: Column) -> Value:
    if strategy == "mean":
        return float(np.nanmean(column.to_numpy()))
    if strategy == "median":
        return float(np.nanmedian(column.to_numpy()))
    counted = column.drop_null().value_counts()
    most = pc.equal(counted.field("counts"), pc.max(counted.field("counts")))
    values = counted.field("values").filter(most)
    smallest: Value = values.take(pc.sort_indices(values))[0].as_py()
    return smallest


def _fitting(table: OwnTable, name: str, column: Column, parameter: str, values: list[Value]) -> list[Value]:
    """Return a parameter's values in the column's type. Raises InputDataError."""
    kind = files.type_name(column)
    accepted: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[kind]
    # A bool is an int in Python, but no number here.
    if any(not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool") for value in values):
        raise InputDataError(
            f"task_config.{parameter}: does not fit column {name!r} of {table.party}, which is of type {kind}; "
            f"give values of that type, or the column another in column_types"
        )
    return [float(value) for value in values] if kind == "float" else values
