"""The worker's settings: environment variables over an optional TOML file over defaults.

`SFWORKER_CONFIG` names the TOML file; its keys are the variables' names. Most variables are the field name in capitals
behind `SFWORKER_`; the ones that the first generation of this worker had keep their names (`_ORIGINAL_NAMES`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
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
_OF_GATEWAYS = (
    "party",
    "peers",
    "peer_pins",
    "gateway_listen",
    "tls_certificate",
    "tls_key",
    "tls_authority",
    "peer_silence_seconds",
    "rendezvous_seconds",
    "max_strangers",
    "max_strangers_per_address",
)
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
DataRoots = list[str] | dict[str, list[str] | str]
Outcome = Literal["success", "failure", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "cancelled")
Limits = dict[Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.:-]{1,100}\Z")], Annotated[int, Meta(ge=1)]]
"""By the name of a task type or tenant."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, checked. See `load`."""

    redis_url: Annotated[str, Meta(description="URL of Redis: redis://, rediss://, unix:// or redis+sentinel://.")] = (
        "redis://localhost:6379/0"
    )
    prefix: Annotated[
        str, Meta(min_length=1, description="Prefix of every key; `{sf}` keeps them in one cluster slot.")
    ] = "sf"
    tenants: Annotated[
        list[Annotated[str, Meta(pattern="^[A-Za-z0-9_]{1,64}$")]],
        Meta(
            max_length=1000,
            description="Web sides apart from each other: names with commas between them. The keys and channels of "
            "each are under `sf:tenant:<name>`.",
        ),
    ] = []
    parties: Annotated[str, Meta(description="Parties of envelopes that name none, separated by commas.")] = "alice,bob"
    address: Annotated[str, Meta(description="Session address of envelopes that name none.")] = "local"
    log_level: Annotated[LogLevel, Meta(description="Minimum log level of the worker.")] = "INFO"
    log_file: Annotated[str, Meta(description="Log file beside the console; empty: none.")] = ""
    job_logs: Annotated[
        str, Meta(description="Directory of a log file for each execution, for `sfworker logs ID`; empty: none.")
    ] = ""
    job_logs_kept: Annotated[int, Meta(ge=1, description="Number of these files at most, the newest.")] = 10_000
    log_file_bytes: Annotated[
        int, Meta(ge=0, description="Size at which the worker itself begins a new log file; 0: it does not.")
    ] = 0
    log_files_kept: Annotated[
        int, Meta(ge=1, le=1000, description="Former log files that it keeps then, as `LOG_FILE.1` and so on.")
    ] = 5
    party_log_level: Annotated[
        LogLevel, Meta(description="Minimum log level of SecretFlow's own Python and C++ code.")
    ] = "WARNING"
    worker_hostname: Annotated[str, Meta(description="First part of the worker's id; empty: the host's name.")] = ""
    concurrency: Annotated[int, Meta(ge=1, le=256, description="Number of executions at the same time.")] = 1
    max_running_of_types: Annotated[
        Limits,
        Meta(
            description="Number of jobs of a task type that run at once in the group, over all workers: "
            "`psi=2,ss_xgb=1`; others: any. See `sfworker limit`."
        ),
    ] = {}
    max_running_of_tenants: Annotated[Limits, Meta(description="The same of tenants: `bank=4`.")] = {}
    max_starts_of_types: Annotated[
        Limits,
        Meta(description="Number of jobs of a task type that start in a minute: `psi=30`; others: any."),
    ] = {}
    max_starts_of_tenants: Annotated[Limits, Meta(description="The same of tenants: `bank=60`.")] = {}
    spare_processes: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Number of party processes forked ahead of demand; each still serves one execution.",
        ),
    ] = 2
    session_jobs: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Most jobs that one session serves, of one tenant and with the same parties and devices, where "
            "they ask for it (`options.session`); 0: each has its own.",
        ),
    ] = 0
    session_idle_seconds: Annotated[
        float, Meta(ge=1, le=86_400, description="Seconds without a job after which a kept session is ended.")
    ] = 60.0
    session_memory_bytes: Annotated[
        int,
        Meta(ge=1 << 20, description="Memory of a session's processes together above which it is not kept, in bytes."),
    ] = 1 << 30
    programs_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Size of the compiled SPU programs that a worker keeps for a tenant's later jobs, in bytes; 0: "
            "each job compiles its own.",
        ),
    ] = 1 << 26
    start_method: Annotated[
        Literal["fork", "spawn"],
        Meta(description="Start of party processes: forked from the template, or a new interpreter each."),
    ] = "fork"
    lease_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="Seconds of silence after which a worker's jobs go to others.")
    ] = 15.0
    cancel_grace_seconds: Annotated[
        float, Meta(ge=0, le=60, description="Seconds between asking a job to stop and killing it.")
    ] = 1.5
    drain_timeout: Annotated[
        float, Meta(ge=0, le=7 * 86_400, description="Seconds that running jobs get to finish after SIGTERM.")
    ] = 60.0
    memory_limit_bytes: Annotated[
        int, Meta(ge=0, description="Default memory limit per execution, in bytes; 0: unlimited.")
    ] = 0
    max_memory_limit_bytes: Annotated[
        int, Meta(ge=0, description="Highest memory limit that an envelope may set, in bytes; 0: any.")
    ] = 0
    scratch_limit_bytes: Annotated[
        int, Meta(ge=0, description="Default limit of scratch disk per execution, in bytes; 0: unlimited.")
    ] = 0
    max_scratch_limit_bytes: Annotated[
        int, Meta(ge=0, description="Highest limit of scratch disk that an envelope may set, in bytes; 0: any.")
    ] = 0
    threads: Annotated[
        int, Meta(ge=0, le=4096, description="Default number of processors per party process; 0: all.")
    ] = 0
    max_threads: Annotated[
        int, Meta(ge=0, le=4096, description="Highest number of processors that an envelope may set; 0: any.")
    ] = 0
    max_time_limit: Annotated[
        float, Meta(gt=0, le=30 * 86_400, description="Highest time limit that an envelope may set, in seconds.")
    ] = 86_400.0
    max_retries: Annotated[
        int, Meta(ge=0, le=100, description="Highest number of retries that an envelope may ask for.")
    ] = 20
    min_retry_delay: Annotated[
        float, Meta(ge=0, le=3600, description="Lowest delay of the first retry that an envelope may set, in seconds.")
    ] = 1.0
    max_rows: Annotated[int, Meta(ge=1, description="Most rows that a party's file may have.")] = 100_000_000
    max_columns: Annotated[
        int, Meta(ge=1, description="Most columns that a party's file may have, read or written.")
    ] = 10_000
    max_output_rows: Annotated[
        int, Meta(ge=1, description="Most rows that a join or a sample may write, where its input has fewer.")
    ] = 20_000_000
    max_expanded_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            description="Most bytes that a file may become, unpacked, read or joined, where they are more than a "
            "hundred times its own size.",
        ),
    ] = 1 << 28
    stall_seconds: Annotated[
        float,
        Meta(ge=0, description="Seconds after which a session whose processes all wait is ended; 0: never."),
    ] = 300.0
    max_crashes: Annotated[
        int, Meta(ge=1, le=100, description="Number of times that a job may take its worker down before it is buried.")
    ] = 3
    health: Annotated[
        str, Meta(description="Address of /healthz, /readyz and /metrics: HOST:PORT or unix:/PATH; empty: none.")
    ] = ""
    console_listen: Annotated[str, Meta(description="Address of `sfworker console`, HOST:PORT.")] = "127.0.0.1:8620"
    console_token: Annotated[
        str,
        Meta(
            pattern="^([!-~]{16,256})?$",
            description="What the console asks visitors for; empty: nothing, which is possible on loopback alone.",
        ),
    ] = ""
    console_hosts: Annotated[
        list[Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,253}$")]],
        Meta(description="Further names by which browsers reach the console, with commas between them."),
    ] = []
    result_ttl: Annotated[
        int, Meta(ge=1, description="Seconds that a result is kept at `sf:result:<execution_id>`.")
    ] = 86_400
    result_ttl_of: Annotated[
        dict[Outcome, Annotated[int, Meta(ge=1)]],
        Meta(description="The same by outcome, where it differs: `success=3600,failure=604800,cancelled=60`."),
    ] = {}
    retention: Annotated[int, Meta(ge=60, description="Seconds that records of executions are kept.")] = 7 * 86_400
    retention_of: Annotated[
        dict[Outcome, Annotated[int, Meta(ge=60)]],
        Meta(description="The same by outcome, where it differs: `success=86400,failure=2592000`."),
    ] = {}
    most_kept_of: Annotated[
        dict[Outcome, Annotated[int, Meta(ge=1)]],
        Meta(
            description="Number of ended executions by outcome of which anything is kept, the newest: "
            "`success=100000,failure=10000`; others: any. An `execution_id` that is forgotten so is run again if it is "
            "sent again."
        ),
    ] = {}
    ended_maxlen: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Number of ended executions of each outcome that `sfworker list` knows at most.",
        ),
    ] = 100_000
    results_maxlen: Annotated[
        int, Meta(ge=100, description="Approximate number of entries that `sf:results` keeps.")
    ] = 100_000
    results_unread_maxlen: Annotated[
        int,
        Meta(
            ge=100,
            description="Number of entries up to which `sf:results` keeps what a consumer group has yet to read.",
        ),
    ] = 500_000
    max_result_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 28,
            description="Longest result that is published, in bytes; more belongs in an output file.",
        ),
    ] = 8 << 20
    max_envelope_bytes: Annotated[int, Meta(ge=1024, description="Longest envelope that is accepted, in bytes.")] = (
        1 << 20
    )
    data_roots: Annotated[
        DataRoots,
        Meta(description="Directories that jobs may use, with a colon between them; or JSON, with each party's own."),
    ] = field(default_factory=lambda: [os.path.join(os.getcwd(), "data")])
    run_dir: Annotated[str, Meta(description="Directory of sockets and scratch, on a local disk.")] = field(
        default_factory=tempfile.gettempdir
    )
    jobs: Annotated[
        list[str],
        Meta(description="Task types of your own: modules, or files by their path, with commas between them."),
    ] = []
    job_environment: Annotated[
        list[str],
        Meta(
            description="Environment variables that jobs get beside those of the system and of numerical libraries: "
            "names with commas between them."
        ),
    ] = []
    umask: Annotated[
        str,
        Meta(
            pattern="^[0-7]{3}$",
            description="Permissions that files of this worker and its jobs never get, in octal; with `027`, the group "
            "of a directory with the set-group-ID bit may read them.",
        ),
    ] = "077"
    party: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$(?!\n)",
            description="Party of this worker in jobs with parties elsewhere; empty: takes no such jobs.",
        ),
    ] = ""
    peers: Annotated[
        dict[str, Annotated[str, Meta(pattern=r"^\S+:\d{1,5}$")]],
        Meta(description="Addresses of the other parties' gateways: `bob=host:port`, with commas between them."),
    ] = {}
    gateway_listen: Annotated[
        str,
        Meta(
            pattern=r"^\S+:\d{1,5}$",
            description="Address that this party's gateway listens on, the only port that peers need.",
        ),
    ] = "0.0.0.0:9443"
    gateway_dir: Annotated[
        str,
        Meta(
            description="Private directory of the gateway's socket; empty: one in the directory of sockets. A worker "
            "that has this and no certificate waits for the gateway there and starts none."
        ),
    ] = ""
    gateway_health: Annotated[
        str,
        Meta(description="Address of the gateway's /healthz, /readyz and /metrics, as `SFWORKER_HEALTH`; empty: none."),
    ] = ""
    tls_certificate: Annotated[
        str, Meta(description="File with this party's certificate and its chain (PEM); empty: no gateway is started.")
    ] = ""
    tls_key: Annotated[str, Meta(description="File with its key (PEM).")] = ""
    tls_authority: Annotated[str, Meta(description="File with the authority of all parties' certificates (PEM).")] = ""
    peer_pins: Annotated[
        dict[str, list[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]],
        Meta(
            description="SHA-256 fingerprints of the only certificates taken as a peer's: `bob=<hex>`, with commas "
            "between them; a peer may have several."
        ),
    ] = {}
    trusted_dealer: Annotated[
        str,
        Meta(
            description="Party that may know SEMI2K's correlated randomness in jobs with parties elsewhere; empty: "
            "none, so that these take CHEETAH or ABY3."
        ),
    ] = ""
    peer_silence_seconds: Annotated[
        float, Meta(ge=2, le=600, description="Seconds of silence after which a peer is given up.")
    ] = 5.0
    rendezvous_seconds: Annotated[
        float,
        Meta(ge=1, le=3600, description="Seconds that a job waits for its peers before others have its slot."),
    ] = 60.0
    max_peer_waits: Annotated[
        int, Meta(ge=0, le=10_000, description="Number of times that a job waits so before it fails.")
    ] = 60
    max_strangers: Annotated[
        int,
        Meta(ge=1, le=10_000, description="Number of connections to the gateway that have not said who they are."),
    ] = 64
    max_strangers_per_address: Annotated[
        int, Meta(ge=1, le=10_000, description="Number of these from one address.")
    ] = 16
    tell_peers_why: Annotated[bool, Meta(description="Peers hear the sentence of an error; else its type alone.")] = (
        True
    )
    link_traces: Annotated[
        bool, Meta(description="Peers' traces of an execution are linked: ids of spans are sent to them and taken.")
    ] = True
    ray_addresses: Annotated[
        list[Annotated[str, Meta(pattern=r"^(local|\S+:\d{1,5})$")]],
        Meta(
            description="Ray clusters that jobs may name as `address`: `host:port`, with commas between them. Whoever "
            "reaches such a cluster's ports can run any code on it. `local`: a head of the worker's own, for `engine: "
            "ray`."
        ),
    ] = []
    ray_at_start: Annotated[
        bool, Meta(description="The worker's own Ray head starts with the worker, not with the first job that asks.")
    ] = False
    ray_cpus: Annotated[
        float,
        Meta(
            ge=0,
            le=4096,
            description="Ray's CPUs that each party process takes on its node of a cluster, beside one of the resource "
            "of its party's name.",
        ),
    ] = 0.0
    ray_environment: Annotated[
        list[str],
        Meta(
            description="Environment variables that envelopes may set for party processes on a Ray cluster: names with "
            "commas between them."
        ),
    ] = []
    min_input_rows: Annotated[
        int, Meta(ge=0, description="Fewest rows of a party's file of which anything may be revealed; 0: any number.")
    ] = 2
    min_intersection_rows: Annotated[
        int, Meta(ge=0, description="Fewest keys that files have in common which may be revealed; 0: any number.")
    ] = 2
    reveal_empty_intersections: Annotated[
        bool,
        Meta(description="Whether no key in common is an answer; else it is the same error as too few of them."),
    ] = True
    min_group_rows: Annotated[
        int, Meta(ge=0, description="Fewest rows of a group, or of one label, whose figures may be revealed.")
    ] = 3
    min_bin_rows: Annotated[
        int, Meta(ge=0, description="Fewest rows of a bin or bucket whose figures may be revealed.")
    ] = 3
    allow_insecure_protocols: Annotated[
        bool, Meta(description="Accepts REF2K, which keeps no secrets; for debugging only.")
    ] = False

    def party_list(self) -> list[str]:
        return [party.strip() for party in self.parties.split(",") if party.strip()]

    def roots_of(self, party: str) -> list[str]:
        """The directories that `party` may read and write, the first being where relative paths start."""
        roots = self.data_roots.get(party, []) if isinstance(self.data_roots, dict) else self.data_roots
        # Absolute, as jobs have working directories of their own.
        return [os.path.abspath(root) for root in ([roots] if isinstance(roots, str) else roots)]

    def all_roots(self) -> list[str]:
        """Those of every party."""
        parties = self.data_roots if isinstance(self.data_roots, dict) else [""]  # whoever asks gets the same
        return [root for party in parties for root in self.roots_of(party)]

    def own_ray_parties(self) -> list[str]:
        """Those that jobs may place on the worker's own Ray head: of envelopes that name none, or with data roots."""
        return sorted({*self.party_list(), *(self.data_roots if isinstance(self.data_roots, dict) else ())})

    def gateway_socket(self) -> str:
        """The socket at which workers of this host find their party's gateway."""
        directory = self.gateway_dir or f"{self.run_dir}/sfworker-gateway-{os.getuid()}-{self.party}"
        return f"{directory}/control.sock"

    def has_gateway(self) -> bool:
        """Whether a gateway carries links to parties elsewhere: one that is run apart, or that this worker starts."""
        return bool(self.party and (self.gateway_dir or self.tls_certificate))

    def of_gateway(self) -> dict[str, str]:
        """Return digests of the settings that a gateway acts by, which it compares with its workers'.

        A worker that leaves the gateway to others has the first two of these.
        """
        names = _OF_GATEWAYS if self.tls_certificate else _OF_GATEWAYS[:2]
        values = {name: getattr(self, name) for name in names}
        values |= {name: os.path.abspath(values[name]) for name in names if name.startswith("tls_")}
        encoded = {name: msgspec.json.encode(value, order="deterministic") for name, value in values.items()}
        return {variable(name): hashlib.sha256(value).hexdigest() for name, value in encoded.items()}

    def result_ttl_after(self, outcome: Outcome) -> int:
        """Seconds that result and envelope of an execution are kept that ended so."""
        return self.result_ttl_of.get(outcome, self.result_ttl)

    def retention_after(self, outcome: Outcome) -> int:
        """Seconds that the record of an execution is kept that ended so."""
        return self.retention_of.get(outcome, self.retention)

    def hostname(self) -> str:
        return self.worker_hostname or socket.gethostname()


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return _ORIGINAL_NAMES.get(name, f"SFWORKER_{name.upper()}")


def load(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Return the settings: `overrides` (of the command line; None: not given) over `environ` over its TOML file.

    Raises SettingsError, which names the variable and what it may be, where a value does not fit.
    """
    given = _from_file(environ["SFWORKER_CONFIG"]) if environ.get("SFWORKER_CONFIG") else {}
    given |= {name: text for name in _FIELDS if (text := environ.get(name))}
    values = {_FIELDS[name]: _parse(_FIELDS[name], value) for name, value in given.items()}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        [name] = re.findall(r"`\$\.(\w+)", str(error))
        raise SettingsError(f"{variable(name)}: has to be {_allowed(name)}") from None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each variable that starts like ours and means nothing."""
    known = {*_FIELDS, *_NO_SETTINGS}
    return [_unknown(name) for name in sorted(environ) if name.startswith("SFWORKER_") and name not in known]


def _from_file(path: str) -> dict[str, Any]:
    """Read the TOML file, whose keys are the variables' names. Raises SettingsError."""
    try:
        found = msgspec.toml.decode(Path(path).read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise SettingsError(f"SFWORKER_CONFIG: the file cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, msgspec.DecodeError):
        raise SettingsError("SFWORKER_CONFIG: the file is not TOML") from None
    for name in found:
        if name not in _FIELDS:
            raise SettingsError(f"SFWORKER_CONFIG: in the file, {_unknown(name)}")
    return found


def _unknown(name: str) -> str:
    fields = Settings.__struct_fields__  # without the prefix, which would make every name look like every other
    near = difflib.get_close_matches(name.lower().removeprefix("sfworker_"), fields, n=1)
    return f"{name} is no setting; {f'did you mean {variable(near[0])}?' if near else 'it has no effect'}"


def _parse(name: str, value: Any) -> Any:
    """Return a value as the field takes it. Text is split into lists, whether from the environment or a file."""
    if not isinstance(value, str):
        return value
    if name == "data_roots" and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            raise SettingsError(f"{variable(name)}: has to be {_allowed(name)}") from None
    if name == "data_roots":
        return [root for root in value.split(os.pathsep) if root]  # an empty one would be the working directory
    parse = _PARSERS.get(name)
    return value if parse is None else parse(name, value)


def _names(name: str, value: str) -> list[str]:
    return [each.strip() for each in value.split(",") if each.strip()]


def _level(name: str, value: str) -> str:
    level = value.strip().upper()
    return "WARNING" if level == "WARN" else level


def _by_name(name: str, value: str) -> dict[str, Any]:
    """Split `alice=x,bob=y`. Pins may repeat a name."""
    found: dict[str, Any] = {}
    for pair in filter(None, (each.strip() for each in value.split(","))):
        key, _, text = pair.partition("=")
        if name == "peer_pins":
            found.setdefault(key, []).append(text.replace(":", "").lower())
        elif key in found:
            raise SettingsError(f"{variable(name)}: has to be {_allowed(name)}")
        else:
            found[key] = text
    return found


def _allowed(name: str) -> str:
    """Say in words what a setting may be."""
    if name in _ALLOWED:
        return _ALLOWED[name]
    schema = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"][name]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(schema["type"], "a text")
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if highest is not None:
        return f"{kind} from {lowest} to {highest}"
    return f"{kind} of at least {lowest}" if lowest is not None else kind


_ALLOWED = {
    "data_roots": "directories with a colon between them, or a JSON object that gives each party its own",
    "party": "a name of letters, digits, `_`, `-` and `.`",
    "peers": "pairs of party and address, bob=host:port, with commas between them",
    "peer_pins": "pairs of party and SHA-256 fingerprint, bob=<64 hex digits>, with commas between them",
    "gateway_listen": "an address, host:port",
    "result_ttl_of": "pairs of success, failure or cancelled and seconds, failure=604800, with commas between them",
    "retention_of": "pairs of success, failure or cancelled and seconds from 60 on, failure=2592000, with commas "
    "between them",
    "most_kept_of": "pairs of success, failure or cancelled and number, success=100000, with commas between them",
    "max_running_of_types": "pairs of task type and number, psi=2, with commas between them",
    "max_running_of_tenants": "pairs of tenant and number, bank=4, with commas between them",
    "max_starts_of_types": "pairs of task type and number, psi=30, with commas between them",
    "max_starts_of_tenants": "pairs of tenant and number, bank=60, with commas between them",
    "ray_addresses": "addresses, host:port or local, with commas between them",
    "ray_environment": "names of environment variables, with commas between them",
    "jobs": "names of modules or paths of files, with commas between them",
    "job_environment": "names of environment variables, with commas between them",
    "console_token": "16 to 256 printable characters without blanks",
    "console_hosts": "names of hosts, with commas between them",
    "umask": "three octal digits, such as 077",
}
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "peers": _by_name,
    "peer_pins": _by_name,
    "result_ttl_of": _by_name,
    "retention_of": _by_name,
    "most_kept_of": _by_name,
    "max_running_of_types": _by_name,
    "max_running_of_tenants": _by_name,
    "max_starts_of_types": _by_name,
    "max_starts_of_tenants": _by_name,
    "jobs": _names,
    "ray_addresses": _names,
    "ray_environment": _names,
    "job_environment": _names,
    "tenants": _names,
    "console_hosts": _names,
    "log_level": _level,
    "party_log_level": _level,
}
_FIELDS = {variable(name): name for name in Settings.__struct_fields__}
_NO_SETTINGS = ("SFWORKER_CONFIG", "SFWORKER_DATA", "SFWORKER_REDIS_SERVER")
"""Variables that no setting has: of the TOML file, of deploy/compose.yaml, and of the demo's and the tests' server."""
