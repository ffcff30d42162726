"""Says which fixed-point arithmetic an SPU computes with. Runs in the party process.

Where an SPU's `runtime_config` leaves out `fxp_fraction_bits`, its attribute reads as 0 although the SPU takes the
field's default. So the number is written into the configuration before a device is made of it.
"""

from __future__ import annotations

from typing import Any

from sfworker.catalog.base import Arithmetic
from sfworker.errors import ParameterValidationError

_DEFAULT_FIELD = "FM128"
_BITS = {"FM32": (32, 8), "FM64": (64, 18), "FM128": (128, 26)}
"""Bits of a number of each field, and the fraction bits among them where none are given, as in SPU's own source."""
_RUNTIME = "spu_config.cluster_def.runtime_config"


def resolved(runtime_config: dict[str, Any]) -> dict[str, Any]:
    """Return `runtime_config` with the field and the fraction bits that the SPU computes with.

    Raises ParameterValidationError where the fraction bits are no number or too many for the field.
    """
    config = {"field": _DEFAULT_FIELD, **runtime_config}
    # Protobuf's JSON spells a name in two ways, and a 64-bit integer as a text.
    given = config.pop("fxpFractionBits", 0) or config.get("fxp_fraction_bits") or 0
    width = _BITS[config["field"]][0]
    # A product has twice the fraction bits, and needs some for its whole part.
    most = width // 2 - 2
    bits = int(float(given)) if str(given).removesuffix(".0").isdecimal() else -1
    if not 0 <= bits <= most:
        raise ParameterValidationError(
            f"{_RUNTIME}.fxp_fraction_bits: has to be a whole number from 0 (the field's default) to {most} with field "
            f"{config['field']}; leave it out or take a larger field"
        )
    return config | {"fxp_fraction_bits": fraction_bits(config["field"], bits)}


def fraction_bits(field: str, given: int) -> int:
    """Return the fraction bits that `given` stands for, where 0 is the default of `field`."""
    return given or _BITS.get(field, (0, 0))[1]


def arithmetic_of(spu: Any) -> Arithmetic:
    """Return the arithmetic of an SPU that was made from a resolved configuration."""
    runtime = spu.conf
    return Arithmetic(
        protocol=runtime.protocol.name, field=runtime.field.name, fxp_fraction_bits=int(runtime.fxp_fraction_bits)
    )


def largest_product(spu: Any) -> float:
    """Return the size that no product, and no sum of products, may reach, because it would wrap around beyond.

    The SPU adds products up with twice the fraction bits, and needs a bit beside the sign to cut them off.
    """
    return float(2.0 ** (_BITS[spu.conf.field.name][0] - 2 - 2 * spu.conf.fxp_fraction_bits))


def require_fraction_bits(spu: Any, least: int) -> None:
    """Raise ParameterValidationError where an SPU has fewer fraction bits than a task type's figures take."""
    if spu.conf.fxp_fraction_bits < least:
        raise ParameterValidationError(
            f"{_RUNTIME}.fxp_fraction_bits: this task type needs {least} or more, as its figures would be rounding "
            f"otherwise; field FM32 has no room for that many, take FM64 or FM128"
        )


def require_whole_bits(spu: Any, fits: bool) -> None:
    """Raise ParameterValidationError where an SPU's fraction bits leave too few for sums, as `fits` says."""
    if not fits:
        raise ParameterValidationError(
            f"{_RUNTIME}.fxp_fraction_bits: leaves too few bits of field {spu.conf.field.name} for the sums over so "
            f"many rows or columns; take fewer, or field FM128"
        )


def require_wide_field(spu: Any, why: str) -> None:
    """Raise ParameterValidationError where the numbers of an SPU have 32 bits, in a sentence that says `why`."""
    if spu.conf.field.name == "FM32":
        raise ParameterValidationError(f"{_RUNTIME}.field: FM32 is too small, {why}; use FM64 or FM128")
