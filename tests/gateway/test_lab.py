"""Parties on hosts of their own, in network namespaces: what they hear of each other's faults, and what shows outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.faults import FAULTS, Ground, ground
from tests.gateway.lab import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(request.param, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        pytest.param(each.ground, name, marks=[pytest.mark.slow] if each.slow else [], id=name)
        for name, each in FAULTS.items()
    ],
    indirect=["made"],
    scope="module",
)
def test_a_fault_is_known_by_name_and_cause(made: Ground, fault: str) -> None:
    FAULTS[fault].run(made)
    made.require_well()
