"""Reads from the kernel what processes and directories use. Each call is cheap enough for once or twice a second."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # of st_blocks, whatever the file system's own blocks are


def memory_above(limit: int, groups: Collection[int]) -> int | None:
    """Return the bytes of memory of all processes in the process groups, or None where they are within `limit`.

    Memory that processes share (a forked process shares much with the template) is divided among them.
    """
    pids = _members(groups)
    # The shares take the kernel a walk through the page tables, so an upper bound that it has at hand comes first.
    if sum(_resident(pid) for pid in pids) <= limit:
        return None
    used = sum(_own_share(pid) for pid in pids)
    return used if used > limit else None


def memory_of(groups: Collection[int]) -> dict[int, int]:
    """Return the bytes of memory of each process group, shared memory divided as for `memory_above`."""
    used = dict.fromkeys(groups, 0)
    for pid in _members(groups):
        with suppress(OSError, KeyError):  # it has ended, or is another by now
            used[os.getpgid(pid)] += _own_share(pid)
    return used


def disk_above(limit: int, directory: str) -> int | None:
    """Return the bytes of disk that files under `directory` take, or None where they are within `limit`."""
    used = _disk(directory)
    return used if used > limit else None


def processor_seconds(groups: Collection[int]) -> float | None:
    """Return the processor time that the process groups have used, None where a process waits for a disk right now."""
    used = 0
    for pid in _members(groups):
        with suppress(OSError):
            state, *numbers = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if state == "D":
                return None
            used += sum(int(ticks) for ticks in numbers[10:14])  # its own and its ended children's, user and system
    return used / _TICKS


def available_memory() -> int:
    """Return how many bytes of this host's memory new processes could have."""
    return 1024 * _kilobytes("/proc/meminfo").get("MemAvailable", 0)


def oom_kills() -> int:
    """Return how many processes this host's kernel has killed for want of memory, 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _members(groups: Collection[int]) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it has ended
                if os.getpgid(int(name)) in groups:
                    found.append(int(name))
    return found


def _resident(pid: int) -> int:
    """Return an upper bound of the process's share in bytes. Files do not count, as the kernel can drop them."""
    kilobytes = _kilobytes(f"/proc/{pid}/status")
    return 1024 * sum(kilobytes.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _own_share(pid: int) -> int:
    kilobytes = _kilobytes(f"/proc/{pid}/smaps_rollup")
    return 1024 * (kilobytes.get("Pss", 0) - kilobytes.get("Pss_File", 0) + kilobytes.get("SwapPss", 0))


def _kilobytes(path: str) -> dict[str, int]:
    """Return the fields in kB of a file of /proc, none where its process has ended."""
    fields: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(path).read_text(errors="replace").splitlines():
            words = line.split()
            if words[-1:] == ["kB"]:
                fields[words[0].rstrip(":")] = int(words[1])
    return fields


def _disk(directory: str) -> int:
    total = 0
    with suppress(OSError), os.scandir(directory) as entries:  # what disappears meanwhile takes nothing
        for entry in entries:
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    total += _disk(entry.path)
    return total
