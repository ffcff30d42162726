"""A short run of two parties under chaos, and the long one."""

from __future__ import annotations

import pytest

from tests.chaos.across import run, show

SEED = 20


@pytest.mark.parametrize(
    ("jobs", "workers", "is_short"), [(14, 1, True), pytest.param(1000, 2, False, marks=pytest.mark.slow)]
)
def test_both_parties_answer_every_job_once_and_alike(jobs: int, workers: int, is_short: bool) -> None:
    report = run(jobs, SEED, workers, is_short=is_short)
    show(report)
    assert report.violations == []
    assert report.answers.total() == jobs
    assert len(report.rest) <= max(1, jobs // 200)
    assert report.faults.total() > jobs // 20
