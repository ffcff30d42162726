"""Reads and writes files whose name ends in a compression, as pandas does. Runs in the party process."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfworker import limits
from sfworker.errors import InputDataError


@contextmanager
def _only_file(path: Path, mode: str = "rb") -> Iterator[Any]:
    """Open the one file of a ZIP archive."""
    with zipfile.ZipFile(path, "w" if mode == "wb" else "r", zipfile.ZIP_DEFLATED) as archive:
        names = archive.namelist() if mode == "rb" else ["table.csv"]
        if len(names) != 1:
            raise zipfile.BadZipFile
        with archive.open(names[0], "w" if mode == "wb" else "r") as file:
            yield file


def _zstd(path: Path, mode: str = "rb") -> Any:
    import pyarrow as pa  # the daemon, which loads this module with a task type's, does without

    return (pa.output_stream if mode == "wb" else pa.input_stream)(str(path), compression="zstd")


_OPEN: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _only_file,
    ".zst": _zstd,
}
"""Functions that open a file, by the ending of its name."""
_BLOCK = 1 << 20
_BROKEN = (EOFError, OSError, NotImplementedError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


def is_compressed(path: Path) -> bool:
    """Return whether the file's ending is that of a compression."""
    return path.suffix.lower() in _OPEN


def to_write(path: Path) -> Any:
    """Open a file to write to it what is compressed as its ending says."""
    return _OPEN[path.suffix.lower()](path, "wb") if is_compressed(path) else path.open("wb")


def unpacked(field: str, path: Path, directory: Path) -> Path:
    """Return `path`, or if it is compressed what it holds, as a file in `directory` that is made once.

    Raises InputDataError.
    """
    if not is_compressed(path):
        return path
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    plain = directory / f"unpacked-{mark}{Path(path.stem).suffix}"
    if plain.exists():
        return plain
    unfinished = plain.with_name(f"{plain.name}.partial")
    most = limits.used().expanded(path.stat().st_size)
    try:
        with _OPEN[path.suffix.lower()](path) as source, unfinished.open("wb") as target:
            while block := source.read(_BLOCK):
                if target.tell() + len(block) > most:
                    raise limits.refusal(field, "the file, unpacked,", "expanded_bytes", "check what was delivered")
                target.write(block)
    except _BROKEN as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system
        raise InputDataError(
            f"{field}: cannot be unpacked as its ending says; check what was delivered (a ZIP archive holds one file)"
        ) from None
    return unfinished.rename(plain)
