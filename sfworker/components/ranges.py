"""Finds columns that are too large for the arithmetic of SecretFlow's components. Runs in party processes.

A sum of products on the SPU wraps around where it reaches the end of its field, without a word. SecretFlow's components
give it columns as they are, where they do not scale them themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, orc
from secretflow_spec import VTable
from secretflow_spec.v1.evaluation_pb2 import NodeEvalParam

from sfworker.session.arithmetic import largest_product

_SCALED = {"stats/ss_pearsonr", "stats/ss_vif"}
"""Components whose columns get mean 0 and deviation 1 at their parties first."""


def far_columns(party: str, param: NodeEvalParam, find: Callable[[str], Path], spu: Any) -> list[str]:
    """Return the columns of `party` that `param` names whose squares add up to more than `spu` can hold.

    Those of all input tables where it names none. `find` gives a uri's file; `spu` is None where none computes.
    """
    if spu is None or param.comp_id.partition(":")[0] in _SCALED:
        return []
    said = [text for attr in param.attrs for text in (attr.s, *attr.ss) if text]
    most, found = largest_product(spu), []
    for data in (data for data in param.inputs if data.type.startswith("sf.table.")):
        own = [(ref, part) for ref in data.data_refs if (part := VTable.from_distdata(data).parties.get(ref.party))]
        for ref, part in ((ref, part) for ref, part in own if ref.party == party):
            named = [name for name in part.columns if any(name in text for text in said)]
            table = _read(find(ref.uri), ref.format, named or part.columns)
            found += [name for name in table.column_names if _squares(table.column(name)) > most]
    return found


def _read(path: Path, form: str, columns: list[str]) -> pa.Table:
    if form == "orc":
        return orc.ORCFile(path).read(columns)
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(include_columns=columns),
    )


def _squares(column: pa.ChunkedArray) -> float:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return 0.0
    numbers = column.cast(pa.float64(), safe=False)
    numbers = numbers.filter(pc.is_finite(numbers))
    return float(pc.sum(pc.multiply(numbers, numbers), min_count=0).as_py())
