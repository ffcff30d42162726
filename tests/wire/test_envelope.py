"""What is an envelope, and what is said about one that is none: the field and the remedy, never the value."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfworker.errors import EnvelopeError, ParameterValidationError, SecretFlowTaskError
from sfworker.wire.envelope import Envelope, Options, PartyName, decode_envelope, decode_ids, expired, explain

PRIVATE = "hunter2"
MAX_BYTES = 1 << 20
GOOD: dict[str, Any] = {
    "task_id": "t",
    "subtask_id": "s",
    "execution_id": "e",
    "sf_init_config": {"parties": ["alice", "bob"], "address": "local"},
    "task_config": {"task_type": "psi", "keys": {"alice": ["id"]}},
}


def envelope(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def with_raw(text: str) -> bytes:
    """The good envelope with `text` appended as it is."""
    return envelope()[:-1] + b"," + text.encode() + b"}"


def without(field: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != field}).encode()


def sentence(data: bytes) -> str:
    with pytest.raises(SecretFlowTaskError) as caught:
        decode_envelope(data, MAX_BYTES)
    assert PRIVATE not in str(caught.value)
    return str(caught.value)


class TestGood:
    def test_the_least(self) -> None:
        decoded = decode_envelope(envelope(), MAX_BYTES)
        assert decoded.task_config == GOOD["task_config"]
        assert decoded.options == Options()
        assert decoded.spu_config is None

    def test_defaults_are_the_contract(self) -> None:
        assert msgspec.to_builtins(Options()) == {
            "priority": "normal",
            "soft_time_limit": 3000.0,
            "time_limit": 3600.0,
            "max_retries": 3,
            "retry_delay": 60.0,
            "expires_at": None,
            "memory_limit_bytes": None,
            "scratch_limit_bytes": None,
            "threads": None,
            "session": "fresh",
        }

    def test_all_there_is(self) -> None:
        data = envelope(
            sf_init_config={
                "cluster_config": {"parties": {"alice": {"address": "10.0.0.1:80"}}, "self_party": "alice"},
                "engine": "mesh",
                "num_cpus": 8,
            },
            spu_config={
                "cluster_def": {"nodes": [{"party": "alice"}], "runtime_config": {"protocol": "SEMI2K"}},
                "link_desc": {"connect_retry_times": 3},
            },
            heu_config={"mode": "PHEU"},
            options={"priority": "high", "time_limit": 60, "session": "reuse", "expires_at": 1.5, "max_retries": 0},
        )
        decoded = decode_envelope(data, MAX_BYTES)
        assert decoded.options.time_limit == 60.0
        assert decoded.sf_init_config.cluster_config is not None
        assert decoded.sf_init_config.cluster_config.parties["alice"].address == "10.0.0.1:80"

    def test_ids_may_be_chinese(self) -> None:
        assert decode_envelope(envelope(execution_id="执行-1"), MAX_BYTES).execution_id == "执行-1"

    def test_unknown_keys_at_the_top_are_tolerated(self) -> None:
        assert decode_envelope(envelope(created_by="web", extra={"a": [1]}), MAX_BYTES).execution_id == "e"

    def test_what_is_given_twice_is_the_same(self) -> None:
        data = with_raw('"execution_id": "e", "more": {"a": 1, "a": 1}')
        assert decode_envelope(data, MAX_BYTES).execution_id == decode_ids(data).execution_id == "e"

    def test_the_schema_can_be_printed(self) -> None:
        assert msgspec.json.schema(Envelope)["$defs"]["Envelope"]["required"][:3] == [
            "task_id",
            "subtask_id",
            "execution_id",
        ]


class TestNoEnvelopeAtAll:
    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (b"", "not valid JSON"),
            (PRIVATE.encode(), "not valid JSON"),
            (envelope() + b"x", "not valid JSON"),
            (f'["{PRIVATE}"]'.encode(), "expected `object`, got `array`"),
            (f'"{PRIVATE}"'.encode(), "expected `object`, got `str`"),
            (b"null", "expected `object`, got `null`"),
            (b"[" * 100_000, "nested too deep"),
            (with_raw('"x": ' + "[" * 100_000), "nested too deep"),
            (with_raw('"task_config": ' + '{"a":' * 100_000), "nested too deep"),
            (envelope(task_id=PRIVATE).replace(b'"e"', b'"\xff"'), "not valid JSON"),
            (b"\xef\xbb\xbf" + envelope(), "not valid JSON"),
            (with_raw('"task_id": "\\ud800"'), "not valid JSON"),
            (with_raw('"options": {"retry_delay": NaN}'), "not valid JSON"),
            (with_raw('"options": {"retry_delay": Infinity}'), "not valid JSON"),
            (with_raw('"options": {"retry_delay": -Infinity}'), "not valid JSON"),
        ],
        ids=range(15),
    )
    def test_says_what_to_append(self, data: bytes, what: str) -> None:
        with pytest.raises(EnvelopeError) as caught:
            decode_envelope(data, MAX_BYTES)
        text = str(caught.value)
        assert text.startswith("envelope: ")
        assert what in text
        assert "JSON object" in text
        assert PRIVATE not in text
        assert len(text) < 300

    def test_ten_megabytes(self) -> None:
        with pytest.raises(EnvelopeError, match="10000000 bytes long, at most 1048576 are accepted; pass data by path"):
            decode_envelope(b" " * 10_000_000, MAX_BYTES)

    @given(st.binary(max_size=200))
    def test_whatever_bytes(self, data: bytes) -> None:
        with pytest.raises(SecretFlowTaskError):
            decode_envelope(data, MAX_BYTES)
        assert not decode_ids(data).usable()


class TestWrongField:
    @pytest.mark.parametrize("field", ["task_id", "subtask_id", "execution_id", "sf_init_config", "task_config"])
    def test_missing(self, field: str) -> None:
        assert sentence(without(field)).startswith(f"{field}: required and missing; `sfworker schema envelope` prints")

    @pytest.mark.parametrize("field", ["task_id", "subtask_id", "execution_id"])
    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ("", "expected `str` of length >= 1"),
            (PRIVATE * 50, "expected `str` of length <= 256"),
            (f"{PRIVATE}\0", "expected `str` without control characters"),
            (f"{PRIVATE}\n", "expected `str` without control characters"),
            (7, "expected `str`, got `int`"),
            (None, "required and missing"),
            ([PRIVATE], "expected `str`, got `array`"),
        ],
    )
    def test_ids(self, field: str, value: Any, what: str) -> None:
        assert sentence(envelope(**{field: value})).startswith(f"{field}: {what}; ")

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ([1], "options: expected `object`, got `array`"),
            ({"max_retries": PRIVATE}, "options.max_retries: expected `int`, got `str`"),
            ({"max_retries": 1.5}, "options.max_retries: expected `int`, got `float`"),
            ({"max_retries": -1}, "options.max_retries: expected `int` >= 0"),
            ({"max_retries": int("9" * 50)}, "options.max_retries: expected `int` <= 100"),
            ({"time_limit": 0}, "options.time_limit: expected `float` > 0.0"),
            ({"soft_time_limit": True}, "options.soft_time_limit: expected `float`, got `bool`"),
            ({"priority": PRIVATE}, "options.priority: invalid enum value"),
            ({"priority": f"it's {PRIVATE}"}, "options.priority: invalid enum value"),
            ({"session": f"{PRIVATE}' - at `$.{PRIVATE}`"}, "options.session: invalid enum value"),
            ({"session": f"{PRIVATE}\n' - at `key` in `$.{PRIVATE}"}, "options.session: invalid enum value"),
            ({"retries": PRIVATE}, "options.retries: unknown parameter"),
            ({"expires_at": [PRIVATE]}, "options.expires_at: expected `float | str | null`, got `array`"),
        ],
    )
    def test_options(self, options: Any, what: str) -> None:
        assert sentence(envelope(options=options)).startswith(f"{what}; `sfworker schema envelope` prints")

    def test_a_number_beyond_all_numbers(self) -> None:
        said = sentence(with_raw('"options": {"retry_delay": 1e999}'))
        assert said.startswith("options.retry_delay: number out of range")
        assert sentence(with_raw('"unknown": 1e999')).startswith("envelope: number out of range")

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a/b",
            "..",
            ".",
            "a\0b",
            "alice\n",
            "a" * 65,
            "\x1b[31m",
            "...",
            ".alice",
            "-rf",
            "a b",
            "back\\slash",
            "_a",
            "甲方",
            "Zürich",
        ]
        + [f"a{special}b" for special in "$`\"'()<>|&;*?~!#%^+=[]{},:@\t\x85\xa0\u2028\u202e\u200b\u3000\ufeff"],
    )
    def test_names_of_parties(self, name: str) -> None:
        assert sentence(envelope(sf_init_config={"parties": ["alice", name]})).startswith("sf_init_config.parties[1]: ")

    @pytest.mark.parametrize("name", ["a.b", "a" * 64, "Zuerich-2_b", "7"])
    def test_good_names_of_parties(self, name: str) -> None:
        assert msgspec.convert(name, PartyName) == name

    def test_names_of_parties_as_keys(self) -> None:
        config = {"self_party": "alice", "parties": {f"{PRIVATE}/b": {"address": "x"}}}
        said = sentence(envelope(sf_init_config={"cluster_config": config}))
        assert said.startswith(
            "sf_init_config.cluster_config.parties.(a name in it): expected `str` of ASCII letters, digits"
        )

    def test_no_parties(self) -> None:
        said = sentence(envelope(sf_init_config={"parties": []}))
        assert said.startswith("sf_init_config.parties: expected `array` of length >= 1")

    def test_a_long_field_name_is_cut(self) -> None:
        assert len(sentence(envelope(options={"x" * 100_000: 1}))) < 400

    @pytest.mark.attack("logs")
    @given(st.text(max_size=60).filter(lambda text: text not in {"high", "normal", "low"}))
    def test_no_value_is_ever_shown(self, value: str) -> None:
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert({"priority": value}, Options)
        assert explain(caught.value) == "priority: invalid enum value"


class TestIds:
    def test_of_an_envelope_that_is_wrong_elsewhere(self) -> None:
        ids = decode_ids(envelope(options={"max_retries": PRIVATE}))
        assert (ids.execution_id, ids.task_id, ids.subtask_id) == ("e", "t", "s")
        assert ids.usable()

    @pytest.mark.parametrize("value", [None, "", 5, [], "x" * 257])
    def test_not_usable(self, value: Any) -> None:
        assert not decode_ids(envelope(execution_id=value)).usable()

    @pytest.mark.parametrize("data", [b"", b"[]", b"\xff", with_raw('"x": ' + "[" * 100_000)])
    def test_of_no_envelope(self, data: bytes) -> None:
        assert not decode_ids(data).usable()


class TestExpiresAt:
    AT = datetime(2026, 1, 31, 18, 0, 0, tzinfo=timezone.utc).timestamp()

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31T18:00:00Z",
            "2026-01-31T18:00:00z",
            "2026-01-31T18:00:00.000Z",
            "2026-01-31T18:00:00.0+00:00",
            "2026-02-01T02:00:00+08:00",
            "2026-02-01T02:00:00+0800",
            "2026-01-31 13:00:00-05:00",
            int(AT),
            AT,
        ],
    )
    def test_forms(self, text: str | float) -> None:
        options = decode_envelope(envelope(options={"expires_at": text}), MAX_BYTES).options
        assert not expired(options, self.AT - 0.001)
        assert expired(options, self.AT)
        assert expired(options, self.AT + 1)

    def test_without(self) -> None:
        assert not expired(Options(), 1e12)

    @pytest.mark.parametrize(
        "text", [PRIVATE, "2026-01-31T18:00:00", "2026-01-31", "2026-13-31T18:00:00Z", "1700000000", "now\n"]
    )
    def test_no_time(self, text: str) -> None:
        with pytest.raises(ParameterValidationError, match=r"^options\.expires_at: neither ISO 8601") as caught:
            expired(Options(expires_at=text), self.AT)
        assert PRIVATE not in str(caught.value)
