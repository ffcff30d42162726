"""A cluster for the tests that harm nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.lab import Cluster, Node


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A head and two nodes, `one` with alice and `two` with bob."""
    with Cluster(Node("one", {"alice": 8}), Node("two", {"bob": 8})) as made:
        yield made
