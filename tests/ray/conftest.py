"""A cluster for the tests that harm nobody, and a worker whose parties live on its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.ray.lab import Cluster, Node
from tests.ray.nodes import OnNodes, on_nodes, settings_of_node


@pytest.fixture(scope="session")
def nodes_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds each party's data root, and one that all have."""
    return tmp_path_factory.mktemp("n")


@pytest.fixture(scope="package")
def cluster(nodes_directory: Path) -> Iterator[Cluster]:
    """A head and two nodes, `one` with alice and `two` with bob and carol, and room for eight party processes each."""
    one = settings_of_node(nodes_directory, "alice")
    two = settings_of_node(nodes_directory, "bob", "carol")
    with Cluster(
        Node("one", {"alice": 8}, environment=one), Node("two", {"bob": 8, "carol": 8}, environment=two)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def shared_nodes(
    cluster: Cluster, nodes_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnNodes]:
    directory = tmp_path_factory.mktemp("w")
    with EmbeddedRedis() as redis, on_nodes(cluster, redis.url, directory, nodes_directory, concurrency="2") as made:
        yield made


@pytest.fixture
def nodes(shared_nodes: OnNodes) -> Iterator[OnNodes]:
    """The shared worker; after each test its nodes serve the next job, and nothing of the test is left on them."""
    yield shared_nodes
    shared_nodes.until_clean()
