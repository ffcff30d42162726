"""Task types of every kind on nodes give what they give on one host: tests of these are run again here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.components import Platform
from tests.jobs.test_binning import halves, test_three_parties  # noqa: F401
from tests.jobs.test_boosting import breast_cancer, test_a_classifier_is_as_good_as_xgboosts  # noqa: F401
from tests.jobs.test_component import (  # noqa: F401
    test_a_failed_component_leaves_nothing,
    test_boosted_trees,
    test_correlations_are_those_of_numpy,
    test_psi_then_a_regression_then_its_predictions,
    test_training_goes_on_from_a_checkpoint,
    write_tables,
)
from tests.jobs.test_psi import test_every_protocol_finds_the_merge  # noqa: F401
from tests.jobs.test_statistics_correlation import (  # noqa: F401
    measured,
    test_correlations_are_those_of_pandas,
    test_keys_are_no_features_and_a_party_may_have_none,
)
from tests.jobs.test_statistics_groupby import customers, test_figures_are_those_of_pandas  # noqa: F401
from tests.jobs.test_unbalanced_psi import test_one_cache_for_several_joins  # noqa: F401
from tests.ray.nodes import OnNodes

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(nodes: OnNodes) -> OnNodes:
    return nodes


@pytest.fixture
def data(shared_nodes: OnNodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = shared_nodes.root("shared") / tmp_path_factory.mktemp("data").name
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def platform(shared_nodes: OnNodes) -> Iterator[Platform]:
    worker: Any = shared_nodes
    made = Platform(worker, shared_nodes.directory)
    write_tables(made)
    yield made
    shared_nodes.until_clean()
