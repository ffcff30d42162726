"""What the bridge says of nodes that are not what this worker needs."""

from __future__ import annotations

import pytest

from sfworker.ray.bridge import CannotPlaceError, Offer, _modules, _require_offered, _require_same_versions
from sfworker.ray.versions import versions
from sfworker.wire.ray import Ready


@pytest.mark.parametrize("name", ["Python", "secretflow", "spu"])
def test_versions_that_differ_are_named_and_not_tried_again(name: str) -> None:
    _require_same_versions("bob", Ready("10.0.0.2:9443", versions(), 1))
    with pytest.raises(CannotPlaceError, match=rf"the node of bob has {name} 0\.1 and this worker ") as refused:
        _require_same_versions("bob", Ready("10.0.0.2:9443", {**versions(), name: "0.1"}, 1))
    assert not refused.value.failure.retryable


def test_a_party_that_nobody_offers_may_come_yet() -> None:
    offers = [Offer("n1", "10.0.0.2", {"alice": 1.0, "CPU": 4.0, "bob": 0.0})]
    _require_offered(["alice"], offers)
    with pytest.raises(CannotPlaceError, match="offers party bob") as refused:
        _require_offered(["alice", "bob"], offers)
    assert refused.value.failure.retryable


def test_nodes_get_this_workers_code_and_its_own_task_types() -> None:
    found = _modules(["tests.acting_job", "tests/cli/own_job.py"])
    assert [path.rpartition("/")[2] for path in found] == ["sfworker", "tests", "own_job.py"]
