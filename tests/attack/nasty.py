"""Values that break parsers, and envelopes that hold them at places drawn by chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

RAW = [
    *("null", "true", "-1", "0", "-0.0", "0.1", "10.0", "1e18", "1e300", "1e400", "-1e400", "NaN", "Infinity"),
    *("9223372036854775808", "18446744073709551616", "-9223372036854775809", "9" * 5_000, "1" * 50_000),
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e"', '"\\ufeff"', '"\\r\\n"', '"\\u001e"'),
    *('"NaN"', '"-Infinity"', '"1e400"', '"18446744073709551616"', '"٣"', '"²"', f'"{"9" * 5_000}"'),
    *('"../../etc/passwd"', '"/etc/passwd"', '"/proc/self/environ"', '"file:///etc/passwd"', '"$(id)`id`;id"', '"."'),
    *('"` - at `$.options"', '"%s%n{0}"', '"\\\\x00"', '"alice"', '"sf:control"', '"-oX"', '"a/b:1.0.0"', '"@type"'),
    *("[]", "{}", "[[]]", '{"":1}', '{"a":1,"a":2}', '{"@type":"type.googleapis.com/google.protobuf.Any"}'),
    *("[" * 90 + "]" * 90, "[" * 5_000 + "]" * 5_000, '{"a":' * 300 + "1" + "}" * 300, f"[{'0,' * 20_000}0]"),
    *(f'"{"x" * 60_000}"', f'"{"界" * 20_000}"', f'"{"𝕏" * 10_000}"', f'"{"é" * 300}"'),
]
"""JSON, or nearly. Strings among them fit as keys, too."""
_MARK = "\x02{}\x02"
Path = tuple[Any, ...]


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """The places in a JSON value, itself first."""
    yield at
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in within:
        yield from paths(each, (*at, key))


def replaced(value: Any, at: Path, change: Callable[[Any, Any], None]) -> Any:
    """A copy whose container of the place `at` was given, with the last key, to `change`."""
    copy = {"": json.loads(json.dumps(value))}
    inner: Any = copy
    *way, last = ("", *at)
    for key in way:
        inner = inner[key]
    change(inner, last)
    return copy.get("")


def with_raw(value: Any, at: Path, raw: str) -> bytes:
    """The JSON of `value` with `raw` at a place."""
    mark = _MARK.format(0)

    def put(inner: Any, key: Any) -> None:
        inner[key] = mark

    text = json.dumps(replaced(value, at, put), ensure_ascii=False)
    return text.replace(json.dumps(mark), raw).encode(errors="replace")


def mutated(data: bytes, random: Random) -> bytes:
    """One or a few changes: of the JSON where it is some, and now and then of its bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutated_bytes(data, random)
    raws: dict[str, str] = {}
    for number in range(random.choice((1, 1, 1, 2, 4))):
        places = list(paths(value))[1:] or [()]
        mark = _MARK.format(number)

        def change(inner: Any, key: Any, mark: str = mark, value: Any = value, places: list[Path] = places) -> None:
            kind = random.randrange(6)
            if kind == 0 and isinstance(inner, dict):
                inner[mark] = inner.pop(key)
                raws[mark] = random.choice([raw for raw in RAW if raw.startswith('"')])
            elif kind == 1:
                del inner[key]
            elif kind == 2:
                inner[key] = [inner[key]] * random.choice((0, 1, 2, 300))
            elif kind == 3:
                found: Any = value
                for step in random.choice(places):
                    found = found[step]
                inner[key] = found
            else:
                inner[key] = mark
                raws[mark] = random.choice(RAW)

        value = replaced(value, random.choice(places), change)
    text = json.dumps(value, ensure_ascii=False)
    for mark, raw in raws.items():
        text = text.replace(json.dumps(mark), raw)
    changed = text.encode(errors="replace")
    return mutated_bytes(changed, random) if random.random() < 0.05 else changed


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """One or a few changes of the bytes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(4)
        if kind == 0:
            changed[at : at + 1] = random.choice((b"\0", b"\xff", b"\x1e", b"\xc1", b'"', b"\r", b"\xef\xbb\xbf"))
        elif kind == 1:
            del changed[at : at + random.choice((1, 4, 64))]
        elif kind == 2:
            changed[at:at] = changed[at : at + 64] * random.choice((1, 2, 50))
        else:
            changed[at : at + 4] = random.randbytes(4)
    return bytes(changed)
