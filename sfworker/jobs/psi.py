"""Implements `psi`, the private set intersection of parties' files. Runs in party processes.

SecretFlow's own PSI reads and writes the files. It sorts lines with a shell tool that knows nothing of quotes, pairs
rows wrongly where a key is duplicated at both parties, leaves a file beside its input, and takes only unique keys of
three parties. So it gets a copy of the input where that is a plain CSV file, or a file of the keys alone, in order
where no key is duplicated. Where its output may be wrong or is not what was asked for, each party builds its own output
from the sequence of keys in it.
"""

from __future__ import annotations

import math
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from sfworker import limits
from sfworker.catalog.psi import PROTOCOLS, JoinParams, PsiParams, PsiResult
from sfworker.errors import InputDataError, SecretFlowTaskError, TaskExecutionError
from sfworker.party import memory
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.session.spu_runtime import copy_with_a_stranger, line_of
from sfworker.tables import aligned, files
from sfworker.tables.cells import hints
from sfworker.tables.taking import ABSENT, taken

Numbers: TypeAlias = npt.NDArray[np.signedinteger[Any]]
_KEYS_AT_ONCE = 1 << 19
"""Keys that are numbered together, and of which the rows of a join are made together."""
_IN_MEMORY = 1 << 28
"""Bytes of a file whose rows are put in order here. SecretFlow has larger ones sorted by a tool that uses files."""


@dataclass(frozen=True)
class Given:
    """A local party's input, and the file that SecretFlow reads in its place."""

    field: str
    source: Path
    source_keys: list[str]
    given: Path
    given_keys: list[str]
    given_rows: int
    rows: int
    """Rows of `source`."""
    in_order: bool
    """True where all keys of `given` are different and in order."""


@dataclass(frozen=True)
class Side(Given):
    """One local party's part in a join."""

    found: Path
    """File that SecretFlow writes."""
    output: Path | None
    """File of the result, None where this party gets none."""


@TaskDispatcher.register_task("psi")
def psi(context: JobContext[PsiParams]) -> PsiResult | None:
    """Intersect files. Beyond the protocol, parties tell each other counts only. The receiver holds the result."""
    params = context.params
    protocol = PROTOCOLS[params.protocol]
    sides = sides_of(context, distinct=params.of_three, hidden=True)
    reports = intersect(
        context,
        sides,
        lambda actor, party, own_files: actor.intersect.remote(
            **own_files,
            in_order=party in sides and sides[party].in_order,
            receiver=params.receiver,
            left_side=params.left_first(context.parties)[0],
            protocol=protocol,
            ecdh_curve=params.ecdh_curve,
            broadcast_result=params.broadcast_result,
        ),
    )
    written = _join_three(context, sides) if params.of_three else join_two(context, sides, reports)
    require_same(context, written)
    log_hints(context, sides, written)
    input_rows = _input_rows(context, sides) if params.reveal_rows else msgspec.UNSET
    found = answer(context, written)
    return None if found is None else PsiResult(**found, protocol=protocol, input_rows=input_rows)


def _input_rows(context: JobContext[PsiParams], sides: Mapping[str, Side]) -> dict[str, int]:
    """Return the rows of all parties' files, which the protocol has told every party already."""
    own = {party: side.rows for party, side in sides.items()}
    rows = context.reveal([context.at(party, own.get, party) for party in context.parties])
    return dict(zip(context.parties, rows, strict=True))


def answer(context: JobContext[Any], written: dict[str, tuple[int, int]]) -> dict[str, Any] | None:
    """Return the fields of `JoinResult` at the receiver, and at every reader where parties are elsewhere."""
    params: JoinParams = context.params
    answering = [party for party in written if party == params.receiver or context.elsewhere]
    if not answering:
        return None
    intersection_count, row_count = written[answering[0]]
    return {
        "intersection_count": intersection_count,
        "row_count": msgspec.UNSET if params.join_type == "inner" else row_count,
        "output_paths": {party: params.output_paths[party] for party in params.readers(context.parties)},
        "parties": context.parties,
        "warnings": [] if intersection_count else [_NOTHING_FOUND],
    }


def log_hints(context: JobContext[Any], sides: Mapping[str, Side], written: dict[str, tuple[int, int]]) -> None:
    """Log what the keys of local readers look like where none has a match. The result, which all read, says no such."""
    for party in (party for party, (found, _) in written.items() if not found):
        _log_hints(context, sides[party], party, "has no match")


def _log_hints(context: JobContext[Any], side: Side, party: str, said: str) -> None:
    table = files.text(side.field, side.source, side.source_keys)
    for number, column in enumerate(table.columns, 1):
        context.log.warning("%s: key column %d of %s %s: %s", side.field, number, party, said, ", ".join(hints(column)))


def sides_of(context: JobContext[Any], **asked: bool) -> dict[str, Side]:
    """Prepare the local parties' sides, their files as `give` is `asked` to."""
    sides = {party: _side(context, party, asked) for party in context.parties if context.is_local(party)}
    _progress(context, 0.1, "inputs prepared")
    return sides


def _side(context: JobContext[Any], party: str, asked: dict[str, bool]) -> Side:
    """Check a party's files and prepare its side. Raises ParameterValidationError or InputDataError."""
    params: JoinParams = context.params
    read = give(context, party, **asked)
    is_sure = params.table_keys_duplicated or read.in_order
    if not is_sure and files.has_duplicates(read.field, read.source, read.source_keys):
        raise InputDataError(
            f"{read.field}: a key occurs more than once although table_keys_duplicated is false; "
            f"remove the duplicates or set it to true"
        )
    output = None
    if party in params.readers(context.parties):
        output = context.output(party, "output_paths", params.output_paths[party])
    found = context.scratch / f"psi-output-{party}.csv"
    as_it_is = read.given_keys is read.source_keys and params.join_type == "inner"
    if output is not None and as_it_is and files.is_bare_csv(output):
        found = output  # what SecretFlow writes may be the output itself
    return Side(**vars(read), found=found, output=output)


def give(context: JobContext[Any], party: str, *, distinct: bool = False, hidden: bool = False) -> Given:
    """Prepare the file that SecretFlow reads, with `distinct` each key once.

    With `hidden` there is a key in it that nobody else has. The protocols begin with a digest of each file's keys, by
    which others could test a guess at all of them, and tell equal files. With a random key among them they cannot.
    Raises ParameterValidationError or InputDataError.
    """
    field = f"task_config.input_paths.{party}"
    source = context.input_file(party, "input_paths", context.params.input_paths[party])
    keys: list[str] = context.params.keys[party]
    names = files.header(field, source)
    files.require_columns(f"task_config.keys.{party}", names, keys)
    given = context.scratch / f"psi-input-{party}.csv"
    table = files.text(field, source, keys)
    context.require_rows(field, table.num_rows)
    plain = files.plain_keys(field, table, keys)
    lacking = files.lack_a_part(plain)
    as_it_is = not (distinct or files.is_columnar(source) or pc.any(lacking).as_py())
    as_it_is = as_it_is and files.is_plain(source, len(names), table.num_rows)
    keys_of_rows = plain if as_it_is else _matching_nothing(plain, lacking)
    order = None
    if hidden and not distinct and (not as_it_is or source.stat().st_size <= _IN_MEMORY):
        order = _order_of_different(keys_of_rows)
    in_order = order is not None
    if as_it_is:
        with files.saving(field, "the scratch directory"):
            if order is not None:
                _copy_in_order(source, given, keys, order)
            elif hidden:
                copy_with_a_stranger(source, given, keys)
            else:
                given.symlink_to(source)
        return Given(field, source, keys, given, keys, table.num_rows + hidden, table.num_rows, in_order)
    if distinct:
        keys_of_rows = keys_of_rows.group_by(plain.column_names).aggregate([]).select(plain.column_names)
    if order is not None:
        keys_of_rows = keys_of_rows.take(order)
    if hidden:
        stranger = pa.table({name: [secrets.token_hex(16)] for name in plain.column_names})
        keys_of_rows = pa.concat_tables([keys_of_rows, stranger])
    _write_keys(field, given, keys_of_rows)
    return Given(field, source, keys, given, plain.column_names, keys_of_rows.num_rows, table.num_rows, in_order)


def _order_of_different(keys: pa.Table) -> pa.Array | None:
    """Return the rows in the order of their keys, or None where two keys are equal."""
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    for begin in range(0, len(order), _KEYS_AT_ONCE):
        some = keys.take(order.slice(begin, _KEYS_AT_ONCE + 1))
        alike = reduce(pc.and_, [pc.equal(column[1:], column[:-1]) for column in some.columns])
        if pc.any(alike).as_py():
            return None
    return order


def _copy_in_order(source: Path, copy: Path, keys: list[str], order: pa.Array) -> None:
    """Copy a file that `is_plain` with its rows in this `order`, and a row more whose key nobody else has.

    The row more comes first, as it is in no intersection.
    """
    content = source.read_bytes()
    if not content.endswith(b"\n"):
        content += b"\n"
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    lines = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(order), [None, pa.py_buffer(ends), pa.py_buffer(content)]
    )
    with copy.open("wb") as file:
        file.write(content[: ends[0]])
        file.write(line_of(secrets.token_hex(16), source, keys).encode())
        for begin in range(0, len(order), _KEYS_AT_ONCE):
            file.write(lines.take(order.slice(begin, _KEYS_AT_ONCE)).buffers()[2])


def _matching_nothing(keys: pa.Table, lacking: pa.ChunkedArray) -> pa.Table:
    """Replace keys that lack a part by some that nobody else has. Others learn as many rows as the file has."""
    if not pc.any(lacking).as_py():
        return keys
    unknown = secrets.token_hex(16)
    numbered = pa.array([f"{unknown}{row}" for row in range(keys.num_rows)])
    return pa.table([pc.if_else(lacking, numbered, column) for column in keys.columns], names=keys.column_names)


def _write_keys(field: str, path: Path, keys: pa.Table) -> None:
    """Write keys from `plain_keys` without quotes.

    SecretFlow sorts lines with quotes in another order and does not find column names with them. The last column, which
    is empty, keeps the line of a single key of blanks from being a blank line.
    """
    table = keys.append_column("nothing", pa.nulls(keys.num_rows, pa.string()))
    with files.saving(field, "the scratch directory"), path.open("wb") as file:
        file.write(f"{','.join(table.column_names)}\n".encode())
        pa_csv.write_csv(table, file, pa_csv.WriteOptions(include_header=False, quoting_style="none"))


def intersect(
    context: JobContext[Any], sides: Mapping[str, Side], start: Callable[[Any, str, dict[str, Any]], Any]
) -> dict[str, dict[str, int]]:
    """Run the protocol in every party's process and return the local parties' reports.

    `start` calls a method of the party's actor, with the files as the last of its arguments.
    """
    nothing: dict[str, Any] = {"keys": [], "input_path": "", "output_path": ""}
    own_files = {
        party: {"keys": side.given_keys, "input_path": str(side.given), "output_path": str(side.found)}
        for party, side in sides.items()
    }
    started = {party: start(actor, party, own_files.get(party, nothing)) for party, actor in context.spu.actors.items()}
    reports = {}
    for party, side in sides.items():
        try:
            reports[party] = context.value_at(party, started[party])
        except InputDataError:
            _log_hints(context, side, party, "has too few matches")
            raise
        except SecretFlowTaskError:
            raise
        except Exception:
            files.whole(side.field, side.source)  # says which row is broken, where that is the reason
            raise
        _require_all(side, reports[party])
    memory.give_back()
    _progress(context, 0.7, "intersected")
    return reports


def _require_all(side: Side, report: dict[str, int]) -> None:
    """Raise TaskExecutionError where SecretFlow has not read all rows, or has not written all that it reports."""
    if report["original_count"] != side.given_rows:
        raise TaskExecutionError("psi: SecretFlow has not read all rows of the party's input")
    if side.output is None:
        return
    # A row is there once for each row of the others with its key.
    if not files.ends_a_line(side.found) or files.rows_of_plain_csv(side.found) < report["intersection_count"]:
        raise TaskExecutionError("psi: SecretFlow has not written all rows of the intersection that it reports")


def require_same(context: JobContext[Any], written: Mapping[str, tuple[int, int]]) -> None:
    """Raise TaskExecutionError where readers have found another intersection than the first one of them.

    Readers tell that one their counts, which it knows from its own rows.
    """
    first, *others = context.params.readers(context.parties)
    told = aligned.gather(context, first, others, written)
    if any(counts != written[first] for counts in told.values()):
        raise TaskExecutionError("psi: the parties have found different intersections")


def join_two(
    context: JobContext[Any], sides: Mapping[str, Side], reports: dict[str, dict[str, int]]
) -> dict[str, tuple[int, int]]:
    """Write the local readers' outputs. Returns for each the rows of the inner join and those of its output."""
    left, _ = context.params.left_first(context.parties)
    others_rows = _others_rows(context, sides, _unmatched(context))
    written = {}
    for party, output in _outputs(sides).items():
        report = reports[party]
        # SecretFlow may pair the right side's rows wrongly where a key is repeated.
        pairs_are_right = party == left or report["intersection_count"] == report["intersection_unique_count"]
        if sides[party].found == output and pairs_are_right:
            written[party] = (files.rows_of_plain_csv(output),) * 2
            continue
        joined, rows = _rows_of_join(context, sides[party], party, report, others_rows[party])
        written[party] = joined, _write(context, sides[party], output, rows)
    return written


def _rows_of_join(
    context: JobContext[Any], side: Side, party: str, report: dict[str, int], others_rows: int
) -> tuple[int, Numbers]:
    """Return how many rows the inner join has, and the local reader's own row at each row of its output."""
    left, _ = context.params.left_first(context.parties)
    own = OwnRows(_own_keys(side), _found_keys(side))
    at, times = own.runs()
    if own.counts[at].sum() != report["intersection_count"]:
        raise TaskExecutionError(_UNFIT)
    joined = own.join(at, after=times) if party == left else own.join(at, before=times)
    parts = [] if context.params.join_type == "difference" else [joined]
    for owner in _unmatched(context):
        # The other party's rows without a partner become empty rows, of which only the number is known here.
        parts.append(
            own.without(at) if owner == party else np.full(others_rows - times.sum(), ABSENT, dtype=joined.dtype)
        )
    return len(joined), parts[0] if len(parts) == 1 else np.concatenate(parts)


def _unmatched(context: JobContext[Any]) -> list[str]:
    """Return the parties whose rows without a partner are part of the output, in its order."""
    params: JoinParams = context.params
    left, right = params.left_first(context.parties)
    return {"inner": [], "left": [left]}.get(params.join_type, [left, right])


def _others_rows(context: JobContext[Any], sides: Mapping[str, Side], unmatched: list[str]) -> dict[str, int]:
    """Return for each local reader the number of the other party's rows, where the reader's output needs it."""
    told = {}
    for reader in context.params.readers(context.parties):
        others = [party for party in unmatched if party != reader]
        rows = {party: sides[party].rows for party in others if party in sides}
        told[reader] = aligned.gather(context, reader, others, rows)
    return {reader: sum(rows.values()) for reader, rows in told.items()}


def _join_three(context: JobContext[Any], sides: Mapping[str, Side]) -> dict[str, tuple[int, int]]:
    """Write outputs as `join_two` does. Each reader tells the others how often it has each of the common keys."""
    params: JoinParams = context.params
    order = params.left_first(context.parties)
    readers = params.readers(context.parties)
    outputs = _outputs(sides)
    # Sorted, because parties tell each other counts by the key's position.
    own = {party: OwnRows(_own_keys(sides[party]), _sorted(_found_keys(sides[party]))) for party in outputs}
    counts = {party: _compact(rows.counts[rows.joined]) for party, rows in own.items()}
    written = {}
    for reader in readers:
        # Where keys are unique, all counts are 1 and need not be told.
        others = [party for party in readers if party != reader] if params.table_keys_duplicated else []
        told = aligned.gather(context, reader, others, counts)
        if reader in outputs:
            place = order.index(reader)
            joined = own[reader].join(
                own[reader].joined, before=_product(told, order[:place]), after=_product(told, order[place + 1 :])
            )
            written[reader] = len(joined), _write(context, sides[reader], outputs[reader], joined)
    return written


class OwnRows:
    """A party's own rows and those of an inner join, by key. Keys are numbered, as long as they have an own row."""

    def __init__(self, keys: pa.StringArray, joined: pa.StringArray) -> None:
        """Number the `keys` of the own rows. Raises TaskExecutionError where one of the `joined` is not among them."""
        # Arrays of all rows are most of what a join takes, so their numbers are no longer than they have to be.
        self._kind = np.dtype(np.int32 if max(len(keys), len(joined)) < 1 << 31 else np.int64)
        self._codes: Numbers = np.empty(len(keys), dtype=self._kind)
        self.joined: Numbers = np.empty(len(joined), dtype=self._kind)
        """Number of the key at each row of the join."""
        parts, found = 1 + len(keys) // _KEYS_AT_ONCE, 0
        for rows, others in zip(_parts_of(keys, parts), _parts_of(joined, parts), strict=True):
            encoded = keys.take(pa.array(rows)).dictionary_encode()
            self._codes[rows] = encoded.indices.to_numpy() + found
            at = pc.index_in(joined.take(pa.array(others)), value_set=encoded.dictionary)
            if at.null_count:
                raise TaskExecutionError(_UNFIT)
            self.joined[others] = at.to_numpy() + found
            found += len(encoded.dictionary)
        self.counts: Numbers = np.bincount(self._codes).astype(self._kind)
        """Number of rows of each key."""

    def runs(self) -> tuple[Numbers, Numbers]:
        """Return the keys of the join, in which equal ones stand together, and the other side's rows of each.

        Raises TaskExecutionError where the join does not fit the own rows.
        """
        is_first = np.ones(len(self.joined), dtype=np.bool_)
        np.not_equal(self.joined[1:], self.joined[:-1], out=is_first[1:])
        at = self.joined[is_first]
        lengths = np.diff(np.append(np.flatnonzero(is_first), len(is_first)).astype(self._kind))
        times, rest = np.divmod(lengths, self.counts[at])
        if rest.any():
            raise TaskExecutionError(_UNFIT)
        return at, times

    def join(self, at: Numbers, before: Numbers | int = 1, after: Numbers | int = 1) -> Numbers:
        """Return the own row at each row of the inner join.

        For each key there are `before` x own x `after` rows, counted as digits are. The last side's row changes with
        every row of the join, that of the side before it when the last side is through with its own.
        """
        own = self.counts[at]
        sizes = 1.0 * before * own * after  # no product of three numbers of rows fits into 64 bits
        total = np.sum(sizes)
        if total > max(limits.used().output_rows, len(self._codes)):
            raise limits.refusal("task_config.input_paths", "the join", "output_rows")
        if (sizes == 1).all():  # as with keys that are unique
            row_of: Numbers = np.empty(len(self.counts), dtype=self._kind)
            row_of[self._codes] = np.arange(len(self._codes), dtype=self._kind)
            return np.asarray(row_of[at], dtype=self._kind)
        by_key = np.argsort(self._codes, kind="stable").astype(self._kind)
        first_of_key = (np.cumsum(self.counts) - self.counts).astype(self._kind)
        found: Numbers = np.empty(int(total), dtype=self._kind)
        filled = 0
        for begin in range(0, len(at), _KEYS_AT_ONCE):
            some = slice(begin, begin + _KEYS_AT_ONCE)
            counts = own[some].astype(np.int64)
            times = np.broadcast_to(after, own.shape)[some]
            rows = np.broadcast_to(before, own.shape)[some] * counts * times
            offset = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
            rank = offset // np.repeat(times, rows) % np.repeat(counts, rows)
            found[filled : filled + len(rank)] = by_key[np.repeat(first_of_key[at[some]], rows) + rank]
            filled += len(rank)
        return found

    def without(self, at: Numbers) -> Numbers:
        """Return the rows whose key is not among `at`."""
        is_left = np.ones(len(self.counts), dtype=np.bool_)
        is_left[at] = False
        return np.flatnonzero(is_left[self._codes]).astype(self._kind)


def _parts_of(keys: pa.StringArray, count: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of each of `count` parts, to which keys belong by their last two bytes.

    Arrow's table of different keys takes up to a hundred bytes for each of them, so that one of all is too large.
    """
    if count == 1:
        yield np.arange(len(keys))
        return
    part_of_each = np.empty(len(keys), dtype=np.int16)
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys.slice(begin, _KEYS_AT_ONCE).cast(pa.binary())
        ends = pc.binary_slice(some, -2, None).dictionary_encode()
        of_ends = np.array([zlib.crc32(end) % count for end in ends.dictionary.to_pylist()], dtype=np.int16)
        part_of_each[begin : begin + len(some)] = of_ends[ends.indices.to_numpy()]
    for part in range(count):
        yield np.flatnonzero(part_of_each == part)


_NOTHING_FOUND = (
    "no row has a match: do the parties write their keys alike, with the same type, length, leading zeros and blanks? "
    "The log of each party that gets a result says what its own keys look like"
)
_UNFIT = "psi: the intersection does not fit the party's input; was it changed meanwhile?"


def _outputs(sides: Mapping[str, Side]) -> dict[str, Path]:
    return {party: side.output for party, side in sides.items() if side.output is not None}


def _own_keys(side: Side) -> pa.StringArray:
    """Read the keys of the party's input."""
    table = files.text(side.field, side.source, side.source_keys)
    return _joined(files.plain_keys(side.field, table, side.source_keys))


def _found_keys(side: Side) -> pa.StringArray:
    """Read the keys that SecretFlow has written, one for each row."""
    found = files.text(side.field, side.found, side.given_keys)
    if side.given_keys is side.source_keys:
        found = files.plain_keys(side.field, found, side.given_keys)
    return _joined(found)


def _sorted(keys: pa.StringArray) -> pa.StringArray:
    return keys.take(pc.sort_indices(keys))


def _joined(keys: pa.Table) -> pa.StringArray:
    """Join each key's columns to one text, in one piece, of which Arrow would make a copy for each `take`."""
    columns = keys.columns
    texts = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, files.SEPARATOR)
    return texts.combine_chunks()


def _compact(counts: Numbers) -> npt.NDArray[Any]:
    """Return the same numbers in as few bytes as they need."""
    return counts.astype(np.min_scalar_type(counts.max(initial=0)))


def _product(counts: dict[str, npt.NDArray[Any]], parties: list[str]) -> Numbers | int:
    return math.prod(counts[party].astype(np.int64) for party in parties if party in counts)


def _write(context: JobContext[Any], side: Side, output: Path, rows: Numbers) -> int:
    """Write the rows of the party's input, empty ones for ABSENT, and return their number."""
    names, field = files.header(side.field, side.source), side.field.replace("input_paths", "output_paths")
    types = files.types_passed_on(side.field, side.source, names, [output], keys=side.source_keys)
    tables = files.held(side.field, side.source, names, types)
    files.write_all(field, output, taken(side.field, side.source, tables, rows, context.scratch))
    _progress(context, 0.9, "outputs written")
    return len(rows)


def _progress(context: JobContext[Any], fraction: float, message: str) -> None:
    """Publish progress from one party's process, as it is the same in all."""
    if context.is_speaker:
        context.progress(fraction, message)
