"""Ranks are asked in turn, so that none starves."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from sfworker.daemon.priorities import HIGH, LOW, NORMAL, RankOrder


def test_of_ten_slots_seven_two_and_one_ask_high_normal_and_low_first() -> None:
    order = RankOrder()
    one_by_one = [rank for _ in range(10) for rank in order.deal(1)]
    assert Counter(one_by_one) == {HIGH: 7, NORMAL: 2, LOW: 1}
    assert order.deal(10) == one_by_one


def test_nobody_waits_longer_than_ten_slots() -> None:
    order = RankOrder().deal(1000)
    for rank in (HIGH, NORMAL, LOW):
        turns = [turn for turn, asked in enumerate(order) if asked == rank]
        assert max(b - a for a, b in pairwise(turns)) <= 10
