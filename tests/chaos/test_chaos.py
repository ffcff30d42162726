"""A quarter of a minute of what `make chaos` does for ten minutes."""

from __future__ import annotations

from tests.chaos.__main__ import run, show

SECONDS = 15.0
SEED = 20


def test_every_job_is_answered_once_whatever_is_killed() -> None:
    report = run(SECONDS, SEED)
    show(report)
    assert report.violations == []
    assert report.jobs.total() > 30
    assert report.faults.total() > 3
