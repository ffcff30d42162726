"""Task types of every kind give in kept sessions what they give in fresh ones: tests of these are run again here.

They share one worker, whose sessions go from one to the next.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.jobs.components import Platform
from tests.jobs.test_binning import halves, test_woe_and_iv_are_those_of_the_joined_table  # noqa: F401
from tests.jobs.test_boosting import (  # noqa: F401
    breast_cancer,
    test_a_classifier_is_as_good_as_xgboosts,
    test_a_regression_is_as_good_as_xgboosts_in_units_of_the_label,
    test_rows_and_columns_can_be_drawn,
)
from tests.jobs.test_component import (  # noqa: F401
    test_a_chain_of_preprocessing_and_its_rules_on_other_rows,
    test_a_glm_gets_the_arithmetic_it_needs_and_its_weights_are_those_of_least_squares,
    test_boosted_trees,
    test_correlations_are_those_of_numpy,
    test_joins_are_those_of_pandas,
    test_psi_then_a_regression_then_its_predictions,
    write_tables,
)
from tests.jobs.test_glm import test_bernoulli, test_gradient_descent_finds_the_same, test_poisson  # noqa: F401
from tests.jobs.test_linear import (  # noqa: F401
    test_a_linear_regression_is_as_good_as_scikit_learns_in_units_of_the_label,
    test_defaults_converge,
    test_every_row_is_used,
)
from tests.jobs.test_preprocessing import (  # noqa: F401
    test_one_hot_is_scikit_learns,
    test_scaling_is_scikit_learns_and_applies_to_other_files,
)
from tests.jobs.test_psi import (  # noqa: F401
    test_every_protocol_finds_the_merge,
    test_keys_that_are_duplicated_at_both_parties,
)
from tests.jobs.test_statistics_correlation import (  # noqa: F401
    measured,
    test_correlations_are_those_of_pandas,
    test_inflation_is_that_of_the_formula,
)
from tests.running_worker import RunningWorker

pytestmark = pytest.mark.slow
SETTINGS = {"session_jobs": "100", "concurrency": "2", "session_memory_bytes": str(4 << 30)}
served: Counter[str] = Counter()


class Reusing(RunningWorker):
    """Asks for a kept session in each job's name."""

    def run(self, job: dict[str, Any] | bytes, seconds: float = 120.0) -> dict[str, Any]:
        assert isinstance(job, dict)
        result = super().run(job | {"options": {**job["options"], "session": "reuse"}}, seconds)
        served["kept" if "session_job" in result["task_metadata"] else "new"] += 1
        return result


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    directory = tmp_path_factory.mktemp("kept")
    with EmbeddedRedis() as redis, Reusing(redis.url, directory, **SETTINGS) as worker:
        yield worker
        print(served)
        print(*[line for line in worker.log().splitlines() if "is not kept" in line], sep="\n")
        assert served["kept"] > 20


@pytest.fixture
def worker(shared_worker: RunningWorker) -> RunningWorker:
    return shared_worker


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    directory = tmp_path_factory.mktemp("components")
    roots = {party: [str(directory / party)] for party in ("alice", "bob")}
    for party in roots:
        (directory / party).mkdir()
    with (
        EmbeddedRedis() as redis,
        Reusing(redis.url, directory, data_roots=json.dumps(roots), **SETTINGS) as worker,
    ):
        made = Platform(worker, directory)
        write_tables(made)
        yield made
        print(*[line for line in worker.log().splitlines() if "is not kept" in line], sep="\n")
