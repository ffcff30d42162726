"""The arithmetic of an SPU whose configuration leaves it out. That the SPU agrees is seen in `tests/jobs`."""

from __future__ import annotations

from typing import Any

import pytest

from sfworker.errors import ParameterValidationError
from sfworker.session.arithmetic import resolved


@pytest.mark.parametrize(
    ("given", "field", "bits"),
    [
        ({}, "FM128", 26),
        ({"field": "FM32"}, "FM32", 8),
        ({"field": "FM64"}, "FM64", 18),
        ({"field": "FM64", "fxp_fraction_bits": 0}, "FM64", 18),
        ({"field": "FM64", "fxp_fraction_bits": None}, "FM64", 18),
        ({"field": "FM64", "fxp_fraction_bits": 20.0}, "FM64", 20),
        ({"field": "FM128", "fxp_fraction_bits": "40"}, "FM128", 40),
        ({"field": "FM128", "fxpFractionBits": "40"}, "FM128", 40),
    ],
)
def test_the_fields_default_stands_for_what_is_left_out(given: dict[str, Any], field: str, bits: int) -> None:
    assert resolved({"protocol": "SEMI2K", **given}) == {
        "protocol": "SEMI2K",
        "field": field,
        "fxp_fraction_bits": bits,
    }


@pytest.mark.parametrize(
    ("field", "bits"),
    [("FM32", 15), ("FM64", 40), ("FM64", -1), ("FM64", 18.5), ("FM64", True), ("FM128", 63), ("FM128", "many")],
)
def test_bits_that_the_field_cannot_hold_are_refused(field: str, bits: Any) -> None:
    with pytest.raises(ParameterValidationError, match="fxp_fraction_bits: has to be a whole number"):
        resolved({"protocol": "SEMI2K", "field": field, "fxp_fraction_bits": bits})
