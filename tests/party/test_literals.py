"""Texts of foreign exceptions that hold no data, as they stand in the code that raises them, and all others."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfworker.party.literals import literal_text

SAID = "the result is empty, set allow_empty_result to true"
LIBRARY = f'''
GLOBAL = "a text that a module holds"

class OwnError(Exception):
    def __init__(self, message, detail=None):
        self.message, self.detail = message, detail

def literal(data):
    raise ValueError("{SAID}")

def asserted(data):
    assert not data, "{SAID}"

def over_lines(data):
    raise ValueError("the result is empty, "
                     "set allow_empty_result to true")

def by_keyword(data):
    raise OwnError(message="{SAID}", detail={{"cell": data}})

def beside_data(data):
    raise ValueError("{SAID}", data)

def chosen(data):
    texts = ("{SAID}", "something else went wrong")
    raise ValueError(texts[len(data) < 0])

def checked(data):
    _check(False, "{SAID}")

def _check(right, text):
    if not right:
        raise ValueError(text)

def f_string(data):
    raise ValueError(f"the result {{data}} is empty, set allow_empty_result to true")

def percent(data):
    raise ValueError("the result %s is empty" % data)

def formatted(data):
    raise ValueError("the result {{}} is empty".format(data))

def joined(data):
    raise ValueError("the result is empty, " + data)

def value(data):
    raise ValueError(data)

def key(data):
    {{}}[data]

def one_word(data):
    if data == "yes":
        return
    raise ValueError("yes" if data else "no")

def evaluated(data):
    eval(compile(f"(_ for _ in ()).throw(ValueError({{data!r}}))", "<expression>", "eval"))

def executed(data):
    exec(compile(f"raise ValueError({{data!r}})", "<expression>", "exec"), {{"__file__": __file__}})

def no_text(data):
    raise ValueError(7)

def nothing(data):
    raise ValueError
'''


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("library") / "library.py"
    path.write_text(LIBRARY)
    spec = importlib.util.spec_from_file_location("library", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(library: ModuleType, function: str, data: str) -> str | None:
    with pytest.raises(Exception) as caught:
        getattr(library, function)(data)
    return literal_text(caught.value)


@pytest.mark.parametrize(
    "function", ["literal", "asserted", "over_lines", "by_keyword", "beside_data", "chosen", "checked"]
)
def test_a_constant_passes(library: ModuleType, function: str) -> None:
    assert said(library, function, "customer 4711") == SAID


@pytest.mark.parametrize(
    "function",
    ["f_string", "percent", "formatted", "joined", "value", "key", "evaluated", "executed", "one_word", "no_text"],
)
@given(data=st.text(min_size=1))
def test_data_does_not(library: ModuleType, function: str, data: str) -> None:
    assert said(library, function, data) is None


def test_neither_does_an_error_without_text(library: ModuleType) -> None:
    assert said(library, "nothing", "") is None


def test_a_text_of_compiled_code_does_not_pass() -> None:
    with pytest.raises(pa.ArrowInvalid) as caught:
        pa.array(["customer 4711"]).cast(pa.int64())
    assert literal_text(caught.value) is None


def test_an_error_that_was_never_raised() -> None:
    assert literal_text(ValueError(SAID)) is None


def test_a_library_that_is_read_from_elsewhere(tmp_path: Path, library: ModuleType) -> None:
    namespace = {"__file__": str(tmp_path / "library.py")}
    exec(compile(LIBRARY, "<generated>", "exec"), namespace)  # noqa: S102
    with pytest.raises(ValueError, match="empty") as caught:
        namespace["literal"](json.dumps(1))  # type: ignore[operator]
    assert literal_text(caught.value) is None
