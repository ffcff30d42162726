"""Sites that stand in for the one worker of other tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.sites import Sites
from tests.running_worker import PARTIES


class Both:
    """A worker, to tests, whose parties are sites with one data root."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites

    def run(self, job: dict[str, Any], seconds: float = 120.0) -> dict[str, Any]:
        """The result of a site that has one, where both have ended in the same way."""
        results = self.sites.run(self.jobs(job), seconds)
        assert len({result["status"] for result in results.values()}) == 1, results
        found = [result for result in results.values() if result["result"] is not None]
        if not found:
            causes = [each for each in results.values() if each["error_type"] != "PeerFailedError"]
            return causes[0]
        merged = found[0]
        for other in found[1:]:
            for name, value in other["result"].items():
                if name.endswith(("_path", "_paths")) and isinstance(value, dict):
                    merged["result"][name] = {**merged["result"][name], **value}
        return merged

    def jobs(self, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What each site is sent in place of one host's job."""
        names = job["sf_init_config"]["parties"]
        parties: dict[str, Any] = {party: {} for party in names}
        configs = {party: {"cluster_config": {"parties": parties, "self_party": party}} for party in names}
        return {party: job | {"sf_init_config": configs[party]} for party in names}

    def said(self, execution_id: str, kind: str = "status") -> list[dict[str, Any]]:
        return self.sites["alice"].worker.said(execution_id, kind)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sites")


@pytest.fixture(scope="module")
def both(directory: Path) -> Iterator[Both]:
    roots = directory / "data"
    roots.mkdir()
    with Sites(directory, [*PARTIES, "carol"], data_roots=str(roots)) as sites:
        yield Both(sites)


@pytest.fixture
def worker(both: Both) -> Both:
    return both


@pytest.fixture
def data(directory: Path, both: Both, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = directory / "data" / tmp_path_factory.mktemp("data").name
    made.mkdir()
    return made
