"""Adapts one party's side of an SPU, and its set intersection, to this worker. Runs in party processes.

`SPURuntime.psi` drops half of the report, and `spu.psi` reveals each party's report to every party, so the intersection
here returns the whole report to its own party alone.
"""

from __future__ import annotations

import csv
import functools
import inspect
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import jax
from secretflow.device.device import spu as spu_module
from secretflow.distributed.fed.global_context import get_global_context
from spu import experimental, libspu, psi

from sfworker import limits
from sfworker.disks import disk_full, is_full, watched
from sfworker.errors import InputDataError, ModelMismatchError, SecretFlowTaskError, TaskExecutionError
from sfworker.session.arithmetic import fraction_bits
from sfworker.session.spans import span, spanned
from sfworker.wire.frames import Floors

_NO_RESULT = -1
"""Count of an intersection at a party that does not get it."""
_OF_THREE = psi.parse_protocol("PROTOCOL_ECDH_3PC")
_LOOK_SECONDS = 0.1


class PartyRuntime(spu_module.SPURuntime):  # type: ignore[misc]
    """Takes the place of SecretFlow's class, see `use_party_runtime`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._names: set[str] = set()

    @spanned("run")
    def run(self, *arguments: Any, **named: Any) -> Any:
        """Run a program as SecretFlow does."""
        return super().run(*arguments, **named)

    def get_new_share_name(self) -> str:
        name: str = super().get_new_share_name()
        self._names.add(name)
        return name

    def del_share(self, val: Any) -> None:
        super().del_share(val)
        self._names.difference_update(jax.tree_util.tree_leaves(val))

    def forget(self) -> None:
        """Delete this party's shares of all values that are left."""
        for name in self._names:
            self.runtime.del_var(name)
        self._names.clear()

    def intersect(
        self,
        *,
        receiver: str,
        left_side: str,
        keys: list[str],
        input_path: str,
        in_order: bool,
        output_path: str,
        protocol: str,
        ecdh_curve: str,
        broadcast_result: bool,
    ) -> dict[str, int]:
        """Join this party's file with the other parties' (inner join) and return this party's own counts.

        The left side repeats each of its rows for each of the other's rows of that key. Where this party's rows are
        `in_order` of their keys, which are different, they are not sorted again, so that they come out in that order.
        """
        config = psi.PsiExecuteConfig(
            protocol_conf=psi.PsiProtocolConfig(
                protocol=psi.parse_protocol(protocol),
                receiver_rank=self._rank(receiver),
                broadcast_result=broadcast_result,
                ecdh_params=psi.EcdhParams(curve=psi.parse_curve_type(ecdh_curve)),
            ),
            # An output to be aligned of keys that are unique would be sorted by its first column, which may be no key.
            input_params=psi.InputParams(path=input_path, selected_keys=keys, keys_unique=in_order),
            output_params=psi.OutputParams(path=output_path, csv_null_rep="", disable_alignment=in_order),
            join_conf=self._inner_join(left_side),
        )
        _require_room_to_sort(input_path)
        self._meet()
        # It takes a progress hook too, which the protocols of two parties never call.
        with _watched(output_path), _bounded(self.party, input_path, output_path):
            return _counts(psi.psi_execute(config, self.link))

    def intersect_unbalanced(
        self,
        *,
        mode: Literal["MODE_OFFLINE", "MODE_ONLINE", "MODE_FULL"],
        server: str,
        left_side: str,
        keys: list[str],
        input_path: str,
        output_path: str,
        cache_path: str,
        readers: list[str],
    ) -> dict[str, int]:
        """Join the files as `intersect` does, where the server's file is far larger.

        The server's keys, encrypted, and what it needs to know of them are written into the directory `cache_path`
        (offline), or read from there (online), or both (full).
        """
        config = psi.UbPsiExecuteConfig(
            mode=psi.parse_ub_psi_mode(mode),
            role=psi.UbPsiRole.ROLE_SERVER if self.party == server else psi.UbPsiRole.ROLE_CLIENT,
            server_receive_result=server in readers,
            client_receive_result=any(party != server for party in readers),
            cache_path=cache_path,
            input_params=psi.InputParams(path=input_path, selected_keys=keys),
            output_params=psi.OutputParams(path=output_path, csv_null_rep=""),
            join_conf=self._inner_join(left_side),
        )
        _require_room_to_sort(input_path)
        self._meet()
        with _watched(output_path, cache_path), _bounded(self.party, input_path, output_path):
            return _counts(psi.ub_psi_execute(config, self.link))

    def psi(self, *arguments: Any, **named: Any) -> Any:
        """Run SecretFlow's own intersection, as its components call it.

        Each side gets a key more (`copy_with_a_stranger`). Joins that keep rows without a match write it into their
        outputs, from which it is removed.
        """
        call = inspect.signature(super().psi).bind(*arguments, **named)
        call.apply_defaults()
        given = _name_of_ours()
        stranger = copy_with_a_stranger(Path(call.arguments["input_path"]), given, call.arguments["keys"])
        call.arguments["input_path"] = str(given)
        self._meet()
        with _watched(), _bounded(self.party, str(given), call.arguments["output_path"]):
            report = super().psi(*call.args, **call.kwargs)
            if report["intersection_count"] != _NO_RESULT:
                self._remove_strangers(call.arguments, report, stranger)
        return {**report, "original_count": report["original_count"] - 1}

    def _remove_strangers(self, asked: dict[str, Any], report: dict[str, Any], stranger: str) -> None:
        """Remove this party's row with the `stranger`, and the empty one that stands beside the other party's.

        An output has the rows of the intersection, the left side's without a match, then the other side's. All empty
        rows beside those of one side are alike, so that it is the last of them that goes.
        """
        both = asked["join_type"] in {"JOIN_TYPE_FULL_JOIN", "JOIN_TYPE_DIFFERENCE"}
        is_left = self.party == (asked["left_side"] or asked["receiver"])
        left_alone = asked["join_type"] == "JOIN_TYPE_LEFT_JOIN"
        beside = None
        if asked["broadcast_result"] and (both or (left_alone and not is_left)):
            # The other side's rows are the last ones, or come before one's own.
            own = report["original_count"] - report["intersection_count"] if both and not is_left else 0
            beside = own + 1
        has_own = both or (left_alone and is_left)
        if has_own or beside:
            output, missing = Path(asked["output_path"]), asked["output_csv_na_rep"]
            _remove_rows(output, stranger if has_own else None, beside, missing)

    def ub_psi(self, *arguments: Any, **named: Any) -> Any:
        """Run SecretFlow's own unbalanced intersection, as its components call it."""
        call = inspect.signature(super().ub_psi).bind(*arguments, **named)
        if path := call.arguments.get("input_path"):
            given = _name_of_ours()
            given.symlink_to(path)
            call.arguments["input_path"] = str(given)
        self._meet()
        output_path = call.arguments.get("output_path") or ""
        with _watched(), _bounded(self.party, call.arguments.get("input_path") or "", output_path):
            return super().ub_psi(*call.args, **call.kwargs)

    def load(self, path: Any) -> Any:
        """Load shares as SecretFlow does, where they are of this SPU's arithmetic.

        SecretFlow would read others as other numbers. Raises ModelMismatchError.
        """
        meta, names = super().load(path)
        here = (self.conf.protocol, self.conf.field, self.conf.fxp_fraction_bits)
        for each in jax.tree_util.tree_leaves(meta):
            # A model from elsewhere may say 0, the field's default.
            each.fxp_fraction_bits = fraction_bits(each.field.name, each.fxp_fraction_bits)
            there = (each.protocol, each.field, each.fxp_fraction_bits)
            if there != here:
                raise ModelMismatchError(
                    f"spu_config.cluster_def.runtime_config: a model's shares are of {_arithmetic(*there)}, this SPU's "
                    f"of {_arithmetic(*here)}; use what it was trained with, or train again"
                )
        return meta, names

    def _inner_join(self, left_side: str) -> Any:
        return psi.ResultJoinConfig(type=psi.ResultJoinType.JOIN_TYPE_INNER_JOIN, left_side_rank=self._rank(left_side))

    def _rank(self, party: str) -> int:
        return [node["party"] for node in self.cluster_def["nodes"]].index(party)

    def _meet(self) -> None:
        """Wait until every party is here.

        An intersection says hello to its peers as the start of the link did. Where a peer still waits for the first
        hello, the second takes its place, and the peer then waits for ever for another one.
        """
        with span("meet"):
            self.link.barrier()

    def export_share(self, name: str) -> tuple[bytes, list[bytes]]:
        """Return this party's share of a value, as its description and its chunks."""
        share = self.runtime.get_var(name)
        return share.meta, list(share.share_chunks)

    def import_share(self, meta: bytes, chunks: list[bytes]) -> str:
        """Take in a share from `export_share` and return the name under which the value is known now."""
        share = libspu.Share()
        share.meta, share.share_chunks = meta, chunks
        name: str = self.get_new_share_name()
        self.runtime.set_var(name, share)
        return name


def _require_room_to_sort(input_path: str) -> None:
    """Raise ResultSaveError where a file does not fit into the scratch directory, where libpsi writes it in order."""
    if input_path and is_full(Path(tempfile.gettempdir()), least=Path(input_path).stat().st_size):
        raise disk_full("the scratch directory")


def _name_of_ours() -> Path:
    """Return a name for a component's input, as libpsi gives it to a shell and the envelope chose the input's own."""
    return Path(tempfile.mkdtemp(prefix="psi-")) / "input.csv"


def copy_with_a_stranger(source: Path, copy: Path, keys: list[str]) -> str:
    """Copy a CSV file without quotes below its header, with a row more whose key nobody else has. Returns that key.

    The protocols begin with a digest of each file's keys, which others could compare with that of a guess.
    """
    stranger = secrets.token_hex(16)
    shutil.copyfile(source, copy)
    with copy.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        end = "" if file.read() == b"\n" else "\n"
    with copy.open("a", encoding="utf-8") as appended:
        appended.write(f"{end}{line_of(stranger, source, keys)}")
    return stranger


def line_of(stranger: str, source: Path, keys: list[str]) -> str:
    """Return a row for `source` with this key, and no other cells."""
    with source.open("rb") as file:
        names = next(csv.reader([file.readline().decode("utf-8-sig")]))
    return f"{','.join(stranger if name in keys else '' for name in names)}\n"


def _remove_rows(output: Path, stranger: str | None, beside: int | None, missing: str) -> None:
    """Remove from a CSV file the row with a key, and the one that is `beside` rows from the end, which is empty.

    Raises TaskExecutionError where one of them is not there.
    """
    with output.open("rb") as file:
        columns = len(next(csv.reader([file.readline().decode()])))
        rows = sum(1 for _ in file)
    empty = ",".join([missing] * columns).encode()
    removed, shorter = 0, output.with_name(f"{output.name}.shorter")
    with output.open("rb") as file, shorter.open("wb") as kept:
        for number, line in enumerate(file):
            is_beside = beside is not None and number == rows - beside + 1
            if is_beside and line.rstrip() != empty:
                raise TaskExecutionError("psi: SecretFlow has written the rows of the join in another order than known")
            if is_beside or (stranger is not None and stranger.encode() in line):
                removed += 1
            else:
                kept.write(line)
    if removed != (stranger is not None) + (beside is not None):
        raise TaskExecutionError("psi: SecretFlow has not written all rows of the join")
    shorter.replace(output)


def _watched(*outputs: str) -> AbstractContextManager[None]:
    """Watch the disks that libpsi writes to, which are those of `outputs` and of this party's TMPDIR."""
    scratch = Path(tempfile.gettempdir())
    # Names in the scratch directory may lead to what is open elsewhere.
    elsewhere = [path for path in map(Path, filter(None, outputs)) if not path.resolve().is_relative_to(scratch)]
    # An output that is yet to be made is on the disk of its directory.
    there = [("the outputs", path if path.exists() else path.parent) for path in elsewhere]
    return watched(("the scratch directory", scratch), *there, break_off=_break_off)


def _break_off(error: SecretFlowTaskError) -> None:
    """End the job with an error on the main thread, as after any in SecretFlow's own. Nothing interrupts libpsi."""
    get_global_context().set_local_exception(error)
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def _bounded(party: str, input_path: str, output_path: str) -> Iterator[None]:
    """Break off the session where a join grows beyond this process's limits during the block."""
    done = threading.Event()

    def look() -> None:
        rows, at = 0, 0
        while not done.wait(_LOOK_SECONDS):
            with suppress(FileNotFoundError), open(output_path, "rb") as output:
                output.seek(at)
                while (block := output.read(1 << 20)) and not done.is_set():
                    rows, at = rows + block.count(b"\n"), at + len(block)
            if grown := limits.beyond(rows - 1, at, Path(input_path or os.devnull)):
                _break_off(limits.refusal(f"task_config.input_paths.{party}", "the join", grown))
                return

    watch = threading.Thread(target=look, daemon=True)
    if output_path:
        watch.start()
    try:
        yield
    finally:
        done.set()


def _arithmetic(protocol: Any, field: Any, fxp_fraction_bits: int) -> str:
    return f"{protocol.name} {field.name} with {fxp_fraction_bits} fraction bits"


def _counts(report: Any) -> dict[str, int]:
    return {
        "original_count": report.original_count,
        "intersection_count": report.intersection_count,
        "intersection_unique_count": report.intersection_unique_count,
    }


def use_party_runtime(floors: Floors) -> None:
    """Make SecretFlow's SPU of this process use `PartyRuntime`. Call once per process.

    Every intersection of fewer keys than `floors` say is then an error, also those of components.
    """
    spu_module.SPURuntime = PartyRuntime  # the name that the SPU looks up is the one place to replace
    psi.psi_execute = functools.partial(_require_common, psi.psi_execute, floors)
    psi.ub_psi_execute = functools.partial(_require_common, psi.ub_psi_execute, floors)


def _require_common(execute: Callable[[Any, Any], Any], floors: Floors, config: Any, link: Any) -> Any:
    """Intersect, and raise InputDataError at who gets the result where too few keys are in it.

    Where none at all is an answer, it tells that a single key asked for is not there.
    """
    with span("intersect"):
        report = execute(config, link)
    if report.intersection_count == _NO_RESULT:
        return report
    of_three = getattr(config, "protocol_conf", None) and config.protocol_conf.protocol == _OF_THREE
    # The protocol of three parties takes each key once and does not count different ones.
    common = report.intersection_count if of_three else report.intersection_unique_count
    if common < floors.intersection_rows and (common or not floors.reveal_empty_intersections):
        none = "" if floors.reveal_empty_intersections else ", or none"
        raise InputDataError(
            f"keys: the files have fewer than {floors.intersection_rows} keys in common{none}, and the operator lets "
            f"nothing of so few be revealed (SFWORKER_MIN_INTERSECTION_ROWS); do the parties write their keys alike, "
            f"with the same type, length, leading zeros and blanks?"
        )
    return report


def use_no_cached_variables() -> None:
    """Make SecretFlow's trainings share each value anew, without the SPU's cache. Call once per process.

    The cache identifies values by their address in memory. Where another value gets that address, at one party only,
    the parties' messages no longer match and they wait for each other for ever, as a logistic regression with the
    true sigmoid did in three of four runs. Our own trainings use it for values that stay until the process ends.
    """
    experimental.make_cached_var = experimental.drop_cached_var = _unchanged


def _unchanged(value: Any, *others: Any) -> Any:
    return value


def use_swift_links(acknowledged: bool) -> None:
    """Make the SPU link retry every few milliseconds, and send half the messages where they need not be acknowledged.

    By default it waits 1 s, then 3 s, for a peer whose socket is not there yet, and answers every message that was read
    by another one. No `link_desc` key changes either. Call once per process.
    """
    stock_fill = spu_module._fill_link_desc_attrs

    def fill(link_desc: Any, tls_opts: Any, desc: Any) -> None:
        stock_fill(link_desc, tls_opts, desc)
        retry = desc.retry_opts
        retry.retry_interval_ms, retry.retry_interval_incr_ms = 1, 1
        retry.max_retry, retry.max_retry_interval_ms = 600, 100
        desc.disable_msg_seq_id = not acknowledged

    spu_module._fill_link_desc_attrs = fill
