"""`component` jobs across sites, each with a data root of its own: tests of one host are run again here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Both
from tests.gateway.sites import Sites
from tests.jobs.components import Platform
from tests.jobs.test_component import (  # noqa: F401
    test_a_chain_of_preprocessing_and_its_rules_on_other_rows,
    test_a_failed_component_leaves_nothing,
    test_a_glm_gets_the_arithmetic_it_needs_and_its_weights_are_those_of_least_squares,
    test_boosted_trees,
    test_correlations_are_those_of_numpy,
    test_psi_then_a_regression_then_its_predictions,
    test_table_statistics_are_those_of_pandas,
    test_training_goes_on_from_a_checkpoint,
    test_woe_binning_counts_as_pandas_does,
    write_tables,
)
from tests.running_worker import PARTIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def platform(directory: Path) -> Iterator[Platform]:
    roots = json.dumps({party: [str(directory / party)] for party in PARTIES})
    with Sites(directory, PARTIES, data_roots=roots) as sites:
        worker: Any = Both(sites)
        made = Platform(worker, directory)
        write_tables(made)
        yield made
