"""The worker's settings: environment variables over an optional TOML file over defaults.

`SFWORKER_CONFIG` names the TOML file; its keys are the field names below. Most variables are the field name in capitals
behind `SFWORKER_`; the ones that the first generation of this worker had keep their names (`_ORIGINAL_NAMES`).
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from sfworker.errors import SettingsError

_ORIGINAL_NAMES = {
    "redis_url": "REDIS_URL",
    "parties": "SECRETFLOW_PARTIES",
    "address": "SECRETFLOW_ADDRESS",
    "log_level": "LOG_LEVEL",
    "log_file": "LOG_FILE",
    "worker_hostname": "WORKER_HOSTNAME",
}
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
DataRoots = list[str] | dict[str, list[str] | str]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, checked. See `load`."""

    redis_url: Annotated[
        str, Meta(description="Redis to work from: redis://, rediss://, unix://, redis+sentinel://.")
    ] = "redis://localhost:6379/0"
    prefix: Annotated[str, Meta(min_length=1, description="Prefix of every key; `{sf}` keeps them in one slot.")] = "sf"
    parties: Annotated[str, Meta(description="Parties of envelopes that name none, separated by commas.")] = "alice,bob"
    address: Annotated[str, Meta(description="Session address of envelopes that name none.")] = "local"
    log_level: Annotated[LogLevel, Meta(description="Least severe record of the worker that is kept.")] = "INFO"
    log_file: Annotated[str, Meta(description="File that gets the log beside the console; empty: none.")] = ""
    party_log_level: Annotated[
        LogLevel, Meta(description="Least severe record of SecretFlow's own Python and C++ code that is kept.")
    ] = "WARNING"
    worker_hostname: Annotated[str, Meta(description="First part of the worker's id; default: the host's name.")] = ""
    concurrency: Annotated[int, Meta(ge=1, le=256, description="Executions at the same time.")] = 1
    spare_processes: Annotated[
        int, Meta(ge=0, le=64, description="Party processes forked ahead of demand; each still serves one execution.")
    ] = 2
    start_method: Annotated[
        Literal["fork", "spawn"],
        Meta(description="How party processes start: from the template, or a fresh interpreter."),
    ] = "fork"
    lease_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="A worker that is silent this long loses its jobs to others.")
    ] = 15.0
    cancel_grace_seconds: Annotated[
        float, Meta(ge=0, le=60, description="Seconds between asking a job to stop and killing it.")
    ] = 1.5
    drain_timeout: Annotated[
        float, Meta(ge=0, le=7 * 86_400, description="Seconds that running jobs get to finish after SIGTERM.")
    ] = 60.0
    memory_limit_bytes: Annotated[
        int, Meta(ge=0, description="Memory of an execution whose options name none; 0: no limit.")
    ] = 0
    max_memory_limit_bytes: Annotated[
        int, Meta(ge=0, description="Most memory that options.memory_limit_bytes may ask for; 0: no bound.")
    ] = 0
    scratch_limit_bytes: Annotated[
        int, Meta(ge=0, description="Scratch disk of an execution whose options name none; 0: no limit.")
    ] = 0
    max_scratch_limit_bytes: Annotated[
        int, Meta(ge=0, description="Most scratch disk that options.scratch_limit_bytes may ask for; 0: no bound.")
    ] = 0
    threads: Annotated[
        int, Meta(ge=0, le=4096, description="Processors that each party process computes on; 0: all there are.")
    ] = 0
    max_threads: Annotated[
        int, Meta(ge=0, le=4096, description="Most processors that options.threads may ask for; 0: no bound.")
    ] = 0
    stall_seconds: Annotated[
        float,
        Meta(
            ge=0, description="Seconds that a session's processes may all wait, none computing; 0: as long as it takes."
        ),
    ] = 300.0
    max_crashes: Annotated[
        int, Meta(ge=1, le=100, description="Times a job may take its worker down before it is buried.")
    ] = 3
    health: Annotated[
        str, Meta(description="Where /healthz and /readyz are answered: HOST:PORT or unix:/PATH; empty: nowhere.")
    ] = ""
    result_ttl: Annotated[int, Meta(ge=1, description="Seconds that sf:result:<execution_id> is kept.")] = 86_400
    retention: Annotated[int, Meta(ge=60, description="Seconds that records of executions are kept.")] = 7 * 86_400
    results_maxlen: Annotated[int, Meta(ge=100, description="About how many entries sf:results keeps.")] = 100_000
    max_result_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 28, description="Longest result that is published; more belongs in an output file.")
    ] = 8 << 20
    max_envelope_bytes: Annotated[int, Meta(ge=1024, description="Longest envelope that is accepted.")] = 1 << 20
    data_roots: Annotated[
        DataRoots, Meta(description="Directories jobs may read and write: a list, or an object with a list per party.")
    ] = field(default_factory=lambda: [os.getcwd()])
    run_dir: Annotated[str, Meta(description="Where sockets and scratch directories are made (local disk).")] = field(
        default_factory=tempfile.gettempdir
    )
    jobs: Annotated[list[str], Meta(description="Modules with task types of one's own, to import.")] = []
    allow_insecure_protocols: Annotated[
        bool, Meta(description="Accept REF2K, which keeps no secrets; for debugging only.")
    ] = False

    def party_list(self) -> list[str]:
        return [party.strip() for party in self.parties.split(",") if party.strip()]

    def roots_of(self, party: str) -> list[str]:
        """The directories that `party` may read and write, the first being where relative paths start."""
        roots = self.data_roots.get(party, []) if isinstance(self.data_roots, dict) else self.data_roots
        return [roots] if isinstance(roots, str) else list(roots)

    def all_roots(self) -> list[str]:
        """Those of every party."""
        parties = self.data_roots if isinstance(self.data_roots, dict) else [""]  # whoever asks gets the same
        return [root for party in parties for root in self.roots_of(party)]

    def hostname(self) -> str:
        return self.worker_hostname or socket.gethostname()


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return _ORIGINAL_NAMES.get(name, f"SFWORKER_{name.upper()}")


def load(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Settings from `environ`, its TOML file and `overrides` (of the command line; None means not given).

    Raises SettingsError, naming the variable, where a value does not fit.
    """
    values: dict[str, Any] = {}
    if config := environ.get("SFWORKER_CONFIG"):
        try:
            values |= msgspec.toml.decode(Path(config).read_bytes(), type=dict[str, Any])
        except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
            raise SettingsError(f"SFWORKER_CONFIG: the file cannot be read as TOML ({type(error).__name__})") from None
    for name in Settings.__struct_fields__:
        if (text := environ.get(variable(name))) is not None and text != "":
            values[name] = _parse(name, text)
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        message = str(error)
        for name in Settings.__struct_fields__:
            if f"`$.{name}" in message:
                raise SettingsError(f"{variable(name)}: {message.split(' - at ', maxsplit=1)[0]}") from None
        raise SettingsError(f"settings: {message}") from None


def _parse(name: str, text: str) -> Any:
    if name == "data_roots" and text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            raise SettingsError(f"{variable(name)}: neither a JSON list nor a JSON object of directories") from None
    if name == "data_roots":
        return text.split(os.pathsep)
    if name == "jobs":
        return [module.strip() for module in text.split(",") if module.strip()]
    return text.upper() if name in {"log_level", "party_log_level"} else text
