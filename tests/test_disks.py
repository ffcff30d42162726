"""Full disks, quotas and limits that nobody but the kernel knows of, while a library writes that does not look."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sfworker import disks
from sfworker.errors import ResultSaveError
from tests.mounting import mounted
from tests.running_worker import until

NAMED = "the disk of the scratch directory is full; "
MOMENT = 0.2


def refuse_to_break_off(error: ResultSaveError) -> None:
    pytest.fail(str(error))


watched = partial(disks.watched, break_off=refuse_to_break_off)


def test_a_disk_with_room_is_as_before(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.write_bytes(b"all")
    with watched(("the scratch directory", tmp_path), ("the outputs", output)):
        time.sleep(MOMENT)
    assert output.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [output]


def test_a_disk_that_is_full_for_a_moment(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 4 * disks.MARGIN) as disk:
        with is_full(), watched(("the scratch directory", disk)):
            (disk / "others").write_bytes(bytes(4 * disks.MARGIN))
            time.sleep(MOMENT)
            (disk / "others").unlink()
        until(lambda: not disks.is_full(disk))  # a look that is under way holds the file for a moment more


def test_what_goes_on_on_a_full_disk_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_PATIENCE_SECONDS", MOMENT)
    broken_off, errors = threading.Event(), []

    def break_off(error: ResultSaveError) -> None:
        errors.append(str(error))
        broken_off.set()

    disk = mounted(tmp_path / "disk", disks.MARGIN - 1)
    with disk as path, is_full(), disks.watched(("the scratch directory", path), break_off=break_off):
        assert broken_off.wait(10)
    assert [error.startswith(NAMED) for error in errors] == [True]


def test_a_quota_that_is_met_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with is_full(), watched(("the scratch directory", tmp_path)), monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        time.sleep(MOMENT)


def test_a_file_that_is_cut_off_at_the_limit_and_removed(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * disks.MARGIN, limits[1]))
    try:
        with is_full(), watched(("the scratch directory", tmp_path)):
            with (tmp_path / "bucket").open("wb", buffering=0) as file:
                assert file.write(bytes(4 * disks.MARGIN)) == 3 * disks.MARGIN
            time.sleep(MOMENT)
            (tmp_path / "bucket").unlink()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("text", [f"[buffer.cc:12] cannot write: {os.strerror(errno.ENOSPC)}", "no such key"])
def test_an_error_is_that_of_the_full_disk_where_it_says_so(tmp_path: Path, text: str) -> None:
    error = ResultSaveError if "space" in text else RuntimeError
    with pytest.raises(error), watched(("the scratch directory", tmp_path)):
        raise RuntimeError(text)


@contextmanager
def is_full() -> Iterator[None]:
    with pytest.raises(ResultSaveError, match=NAMED):
        yield
