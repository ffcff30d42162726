"""Outputs of one host and of nodes, as the executor has them looked after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from sfworker.errors import ResultSaveError
from sfworker.pool.keepers import NodesKeeper, by_place, located
from sfworker.wire.frames import Staging
from sfworker.wire.ray import Commit, Flush

STAGED = [
    Staging(f"{located('head:1', party)}/data/.0123456789abcdef-1.partial", f"{located('head:1', party)}/data/out")
    for party in ("alice", "bob")
]


class Nodes:
    """Nodes that note what they are asked, and of which `lost` cannot commit."""

    def __init__(self, lost: str = "") -> None:
        self.asked: list[tuple[str, type[Struct]]] = []
        self.removed: list[str] = []
        self._lost = lost

    async def ask(self, party: str, make: Callable[..., Struct]) -> None:
        message: Any = make(1)
        self.asked.append((party, type(message)))
        if party == self._lost and isinstance(message, Commit):
            raise ResultSaveError("the node was lost")

    def keeper(self) -> NodesKeeper:
        return NodesKeeper(["alice", "bob"], 1, self.ask, self.removed.extend)


async def test_all_nodes_flush_before_the_first_renames() -> None:
    nodes = Nodes()
    await nodes.keeper().flush(STAGED)
    await nodes.keeper().commit(STAGED)
    assert [kind for _, kind in nodes.asked] == [Flush, Flush, Commit, Commit]
    assert {party for party, _ in nodes.asked} == {"alice", "bob"}


async def test_a_commit_of_some_nodes_says_at_whom() -> None:
    with pytest.raises(ResultSaveError, match=r"the node was lost \(bob\); the outputs of alice are in their places"):
        await Nodes("bob").keeper().commit(STAGED)


async def test_what_is_discarded_is_removed_wherever_it_is() -> None:
    nodes = Nodes("bob")
    await nodes.keeper().discard(STAGED)
    assert by_place([*nodes.removed, "/data/.mine"]) == {
        ("head:1", "alice"): ["/data/.0123456789abcdef-1.partial"],
        ("head:1", "bob"): ["/data/.0123456789abcdef-1.partial"],
        ("", ""): ["/data/.mine"],
    }


@pytest.mark.parametrize("path", ["ray://", "ray://head:1", "ray://head:1/alice", "ray:///alice/etc/passwd"])
def test_paths_that_redis_was_given_by_others_are_no_error(path: str) -> None:
    assert len(by_place([path])) == 1
