"""`psi`: private set intersection of two parties' files. Runs in both parties' processes.

SecretFlow's own PSI reads and writes the files. It sorts lines with a shell tool that knows nothing of quotes, pairs
rows wrongly where a key is duplicated at both parties, and leaves a file beside its input. So it gets a link to the
input where that is a plain CSV file, or a file of the keys alone; and where its output may be wrong or is not what was
asked for, each party builds its own output from the sequence of keys in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sfworker.catalog.psi import PROTOCOLS, PsiParams, PsiResult
from sfworker.errors import InputDataError, TaskExecutionError
from sfworker.runtime import tables
from sfworker.runtime.context import JobContext
from sfworker.runtime.task_dispatcher import TaskDispatcher


@dataclass(frozen=True)
class _Side:
    """One local party's part: what was asked for, and what SecretFlow reads and writes."""

    field: str
    source: Path
    source_keys: list[str]
    given: Path
    given_keys: list[str]
    found: Path
    """Where SecretFlow writes."""
    output: Path | None
    """None where this party gets nothing."""

    @property
    def written(self) -> str:
        """What SecretFlow is told of its output."""
        return "" if self.output is None else str(self.found)


@TaskDispatcher.register_task("psi")
def psi(context: JobContext[PsiParams]) -> PsiResult | None:
    """Intersect. Nothing is revealed beyond what the protocol itself shows; the receiver holds the result."""
    params = context.params
    sides = {party: _side(context, party) for party in context.parties if context.is_local(party)}
    reports = {
        party: actor.intersect.remote(
            receiver=params.receiver,
            keys=sides[party].given_keys if party in sides else [],
            keys_unique=not params.table_keys_duplicated,
            input_path=str(sides[party].given) if party in sides else "",
            output_path=sides[party].written if party in sides else "",
            protocol=PROTOCOLS[params.protocol],
            ecdh_curve=params.ecdh_curve,
            broadcast_result=params.broadcast_result,
        )
        for party, actor in context.spu.actors.items()
    }
    rows = {}
    for party, side in sides.items():
        try:
            report = context.value_at(party, reports[party])
        except Exception:
            tables.whole(side.field, side.source)  # says which row is broken, where that is the reason
            raise
        if side.output is not None:
            pairs_are_right = (
                party == params.receiver or report["intersection_count"] == report["intersection_unique_count"]
            )
            if side.found == side.output and pairs_are_right:
                rows[party] = tables.rows_of_plain_csv(side.output)
            else:
                rows[party] = _build_output(context, party, side, side.output)
    if params.receiver not in sides:
        return None
    return PsiResult(
        intersection_count=rows[params.receiver],
        output_paths={party: params.output_paths[party] for party in params.readers(context.parties)},
        protocol=PROTOCOLS[params.protocol],
        parties=context.parties,
    )


def _side(context: JobContext[PsiParams], party: str) -> _Side:
    """Check the party's files and prepare what SecretFlow reads. Raises ParameterValidationError or InputDataError."""
    params, field = context.params, f"task_config.input_paths.{party}"
    source = context.input_file(party, "input_paths", params.input_paths[party])
    keys = params.keys[party]
    tables.require_columns(f"task_config.keys.{party}", tables.header(field, source), keys)
    if not params.table_keys_duplicated and tables.has_duplicates(field, source, keys):
        raise InputDataError(
            f"{field}: a key occurs more than once although table_keys_duplicated is false; "
            f"remove the duplicates or set it to true"
        )
    output = None
    if party in params.readers(context.parties):
        output = context.output(party, "output_paths", params.output_paths[party])
    given = context.scratch / f"psi-input-{party}.csv"
    if tables.is_columnar(source) or not tables.is_plain(source):
        plain = tables.plain_keys(tables.text(field, source, keys), keys)
        tables.write(field, given, plain)
        given_keys = list(plain.column_names)
    else:
        given.symlink_to(source)
        given_keys = keys
    found = context.scratch / f"psi-output-{party}.csv"
    if output is not None and given_keys is keys and not tables.is_columnar(output):
        found = output
    return _Side(field, source, keys, given, given_keys, found, output)


def _build_output(context: JobContext[PsiParams], party: str, side: _Side, output: Path) -> int:
    """Write the party's rows in the order of the keys that were found; returns their number."""
    field = f"task_config.output_paths.{party}"
    own = tables.whole(side.field, side.source)
    joined = tables.text(field, side.found, side.given_keys)
    rows = join_rows(
        _joined(tables.plain_keys(own, side.source_keys)),
        _joined(tables.plain_keys(joined, side.given_keys) if side.given_keys is side.source_keys else joined),
        left=party == context.params.receiver,
    )
    tables.write(field, output, own.take(pa.array(rows)))
    return len(rows)


def join_rows(own: pa.ChunkedArray, found: pa.ChunkedArray, *, left: bool) -> npt.NDArray[np.int64]:
    """Which of a party's own rows stands at each row of the join.

    `own` holds the key of each own row, `found` the key of each row of the join, equal ones together: a * b of them for
    a key that the left side has a times and the right side b times. Both sides see the same order of pairs: (first left
    row, first right row), (first left row, second right row) and so on.
    """
    encoded = own.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    at = pc.index_in(found, value_set=encoded.dictionary).to_numpy()
    if not len(at):
        return np.empty(0, dtype=np.int64)
    by_key = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    first_of_key = np.cumsum(counts) - counts
    run_starts = np.flatnonzero(np.concatenate(([True], at[1:] != at[:-1])))
    run_lengths = np.diff(np.append(run_starts, len(at)))
    offset = np.arange(len(at)) - np.repeat(run_starts, run_lengths)
    own_count = counts[at]
    other_count = np.repeat(run_lengths, run_lengths) // own_count
    if (own_count * other_count != np.repeat(run_lengths, run_lengths)).any():
        raise TaskExecutionError("psi: the intersection does not fit the party's input; was it changed meanwhile?")
    rank = offset // other_count if left else offset % own_count
    return np.asarray(by_key[first_of_key[at] + rank], dtype=np.int64)


def _joined(keys: pa.Table) -> pa.ChunkedArray:
    if keys.num_columns == 1:
        return keys.column(0)
    return pc.binary_join_element_wise(*keys.columns, tables.SEPARATOR)
