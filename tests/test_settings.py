"""Settings: the command line over the environment over the TOML file over defaults; every error names its variable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sfworker.errors import SettingsError
from sfworker.settings import Settings, load, unknown_variables, variable


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A TOML file that sets three things."""
    path = tmp_path / "sfworker.toml"
    path.write_text('SFWORKER_PREFIX = "toml"\nSFWORKER_CONCURRENCY = 3\nLOG_LEVEL = "error"\n')
    return path


class TestOrder:
    def test_defaults(self) -> None:
        settings = load({})
        assert settings.redis_url == "redis://localhost:6379/0"
        assert settings.prefix == "sf"
        assert settings.party_list() == ["alice", "bob"]
        assert settings.result_ttl == 86_400
        assert settings.data_roots == [f"{os.getcwd()}/data"]
        assert settings == Settings()

    def test_file_over_defaults(self, config: Path) -> None:
        settings = load({"SFWORKER_CONFIG": str(config)})
        assert (settings.prefix, settings.concurrency, settings.log_level) == ("toml", 3, "ERROR")
        assert settings.lease_seconds == 15.0

    def test_environment_over_file(self, config: Path) -> None:
        settings = load({"SFWORKER_CONFIG": str(config), "SFWORKER_CONCURRENCY": "4", "LOG_LEVEL": "debug"})
        assert (settings.prefix, settings.concurrency, settings.log_level) == ("toml", 4, "DEBUG")

    def test_command_line_over_environment(self, config: Path) -> None:
        environ = {"SFWORKER_CONFIG": str(config), "SFWORKER_CONCURRENCY": "4", "SFWORKER_PREFIX": "env"}
        settings = load(environ, concurrency=5, prefix=None)
        assert (settings.prefix, settings.concurrency) == ("env", 5)

    def test_an_empty_variable_is_not_set(self, config: Path) -> None:
        settings = load({"SFWORKER_CONFIG": str(config), "SFWORKER_PREFIX": "", "LOG_LEVEL": ""})
        assert (settings.prefix, settings.log_level) == ("toml", "ERROR")

    def test_no_other_variable_counts(self) -> None:
        assert load({"CONCURRENCY": "9", "SFWORKER_LOG_LEVEL": "ERROR", "SFWORKER_TYPO": "1"}) == Settings()


class TestVariables:
    @pytest.mark.parametrize(
        ("name", "field"),
        [
            ("REDIS_URL", "redis_url"),
            ("SECRETFLOW_PARTIES", "parties"),
            ("SECRETFLOW_ADDRESS", "address"),
            ("LOG_LEVEL", "log_level"),
            ("LOG_FILE", "log_file"),
            ("WORKER_HOSTNAME", "worker_hostname"),
            ("SFWORKER_PREFIX", "prefix"),
            ("SFWORKER_DATA_ROOTS", "data_roots"),
        ],
    )
    def test_names_are_the_contract(self, name: str, field: str) -> None:
        assert variable(field) == name

    @pytest.mark.parametrize(
        ("name", "text", "field", "value"),
        [
            ("REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
            ("LOG_LEVEL", "warning", "log_level", "WARNING"),
            ("LOG_LEVEL", "Warn", "log_level", "WARNING"),
            ("SFWORKER_PARTY_LOG_LEVEL", " warn", "party_log_level", "WARNING"),
            ("SFWORKER_PARTY_LOG_LEVEL", "info", "party_log_level", "INFO"),
            ("SFWORKER_LEASE_SECONDS", "2.5", "lease_seconds", 2.5),
            ("SFWORKER_LEASE_SECONDS", "3", "lease_seconds", 3.0),
            ("SFWORKER_ALLOW_INSECURE_PROTOCOLS", "true", "allow_insecure_protocols", True),
            ("SFWORKER_ALLOW_INSECURE_PROTOCOLS", "0", "allow_insecure_protocols", False),
            ("SFWORKER_JOBS", "mine, yours.jobs,", "jobs", ["mine", "yours.jobs"]),
            ("SFWORKER_JOB_ENVIRONMENT", "LICENCE, TOKEN", "job_environment", ["LICENCE", "TOKEN"]),
            ("SFWORKER_PEERS", "alice=h:1, bob=[::1]:2,", "peers", {"alice": "h:1", "bob": "[::1]:2"}),
            ("SFWORKER_MAX_RUNNING_OF_TYPES", "psi=2, ss_xgb=1", "max_running_of_types", {"psi": 2, "ss_xgb": 1}),
            ("SFWORKER_UMASK", "027", "umask", "027"),
            ("SFWORKER_START_METHOD", "spawn", "start_method", "spawn"),
            ("SFWORKER_DATA_ROOTS", "/a:/b", "data_roots", ["/a", "/b"]),
            ("SFWORKER_DATA_ROOTS", "/a:", "data_roots", ["/a"]),
            ("SFWORKER_DATA_ROOTS", '["/a"]', "data_roots", ["/a"]),
            (
                "SFWORKER_DATA_ROOTS",
                ' {"alice": "/a", "bob": ["/b", "/c"]}',
                "data_roots",
                {"alice": "/a", "bob": ["/b", "/c"]},
            ),
        ],
    )
    def test_forms(self, name: str, text: str, field: str, value: Any) -> None:
        assert getattr(load({name: text}), field) == value

    def test_every_setting_has_a_description(self) -> None:
        properties = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
        assert [name for name, schema in properties.items() if not schema.get("description")] == []


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("SFWORKER_CONCURRENCY", "x"),
            ("SFWORKER_CONCURRENCY", "0"),
            ("SFWORKER_CONCURRENCY", "1.5"),
            ("SFWORKER_LEASE_SECONDS", "15s"),
            ("SFWORKER_LEASE_SECONDS", "inf"),
            ("SFWORKER_DRAIN_TIMEOUT", "nan"),
            ("SFWORKER_DRAIN_TIMEOUT", "-1"),
            ("SFWORKER_START_METHOD", "thread"),
            ("SFWORKER_ALLOW_INSECURE_PROTOCOLS", "maybe"),
            ("SFWORKER_MAX_ENVELOPE_BYTES", "1"),
            ("SFWORKER_DATA_ROOTS", "[1]"),
            ("SFWORKER_DATA_ROOTS", "{bad"),
            ("SFWORKER_DATA_ROOTS", '{"alice": {}}'),
            ("SFWORKER_PARTY_LOG_LEVEL", "loud"),
            ("SFWORKER_PEERS", "alice=h"),
            ("SFWORKER_PEERS", "h:1"),
            ("SFWORKER_PEERS", "bob=h:1,bob=g:1"),
            ("SFWORKER_MAX_RUNNING_OF_TYPES", "psi=0"),
            ("SFWORKER_MAX_STARTS_OF_TYPES", "psi = 2"),
            ("SFWORKER_MAX_RUNNING_OF_TENANTS", "=2"),
            ("SFWORKER_MAX_STARTS_OF_TENANTS", "bank"),
            ("SFWORKER_PARTY", "a/b"),
            ("SFWORKER_GATEWAY_LISTEN", "h"),
            ("SFWORKER_PEER_PINS", "bob=12"),
            ("LOG_LEVEL", "loud"),
            ("SFWORKER_CONFIG", "/nowhere/sfworker.toml"),
        ],
    )
    def test_name_the_variable(self, name: str, text: str) -> None:
        with pytest.raises(SettingsError, match=f"^{name}: "):
            load({name: text})

    @pytest.mark.parametrize(
        ("content", "start"),
        [
            ("SFWORKER_CONCURRENCY = 0", "SFWORKER_CONCURRENCY: "),
            ('REDIS_URL = ["a"]', "REDIS_URL: "),
            ("SFWORKER_JOBS = [1]", "SFWORKER_JOBS: "),
            ("SFWORKER_CONCURENCY = 2", "SFWORKER_CONFIG: .*did you mean SFWORKER_CONCURRENCY?"),
            ("concurrency = 2", "SFWORKER_CONFIG: .*concurrency is no setting"),
            ("SFWORKER_CONCURRENCY = ", "SFWORKER_CONFIG: the file is not TOML"),
        ],
    )
    def test_of_the_file(self, tmp_path: Path, content: str, start: str) -> None:
        path = tmp_path / "sfworker.toml"
        path.write_text(content)
        with pytest.raises(SettingsError, match=f"^{start}"):
            load({"SFWORKER_CONFIG": str(path)})

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("SFWORKER_CONCURRENCY", "abc", "has to be a whole number from 1 to 256"),
            ("SFWORKER_LEASE_SECONDS", "15s", "has to be a number from 1 to 3600"),
            ("SFWORKER_RESULT_TTL", "0", "has to be a whole number of at least 1"),
            ("SFWORKER_ALLOW_INSECURE_PROTOCOLS", "maybe", "has to be true or false"),
            ("LOG_LEVEL", "loud", "has to be one of CRITICAL, DEBUG, ERROR, INFO, WARNING"),
            ("SFWORKER_START_METHOD", "thread", "has to be one of fork, spawn"),
            ("SFWORKER_DATA_ROOTS", "[1]", "has to be directories with a colon between them, or a JSON object "),
        ],
    )
    def test_say_what_is_allowed(self, name: str, text: str, sentence: str) -> None:
        with pytest.raises(SettingsError) as told:
            load({name: text})
        assert str(told.value).startswith(f"{name}: {sentence}")

    def test_unknown_variables_are_named_with_the_nearest(self) -> None:
        unknown = ("SFWORKER_DATA_ROOT", "SFWORKER_LOG_LEVEL", "SFWORKER_XYZZY")
        environ = dict.fromkeys((*unknown, "SFWORKER_CONFIG", "OTHER", "REDIS_URL"), "")
        assert unknown_variables(environ) == [
            "SFWORKER_DATA_ROOT is no setting; did you mean SFWORKER_DATA_ROOTS?",
            "SFWORKER_LOG_LEVEL is no setting; did you mean LOG_LEVEL?",
            "SFWORKER_XYZZY is no setting; it has no effect",
        ]

    def test_of_the_command_line(self) -> None:
        with pytest.raises(SettingsError, match=r"^SFWORKER_CONCURRENCY: "):
            load({}, concurrency=0)


class TestDerived:
    def test_roots_of_a_party(self) -> None:
        shared = Settings(data_roots=["/a", "/b"])
        assert shared.roots_of("alice") == shared.roots_of("bob") == ["/a", "/b"]
        own = Settings(data_roots={"alice": "/a", "bob": ["/b", "/c"]})
        assert [own.roots_of(party) for party in ("alice", "bob", "carol")] == [["/a"], ["/b", "/c"], []]

    def test_parties(self) -> None:
        assert Settings(parties=" alice , bob,,carol").party_list() == ["alice", "bob", "carol"]

    def test_hostname(self) -> None:
        assert Settings(worker_hostname="here").hostname() == "here"
        assert Settings().hostname()


def test_a_file_that_is_no_text(config: Path) -> None:
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="SFWORKER_CONFIG"):
        load({"SFWORKER_CONFIG": str(config)})
