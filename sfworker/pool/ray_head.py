"""Keeps this worker's local Ray head, where a job asks for one. Runs in the daemon; see `sfworker.ray.head`."""

from __future__ import annotations

import json
import logging
import os
import secrets
from itertools import count
from typing import Any, cast

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from sfworker.errors import ClusterInitializationError
from sfworker.logs import party_line
from sfworker.pool.channel import LineChannel
from sfworker.pool.run_dir import PREFIX
from sfworker.pool.template import job_environment
from sfworker.settings import Settings, variable
from sfworker.wire import entry

_log = logging.getLogger("sfworker.pool")
START_SECONDS = 60.0
STOP_SECONDS = 5.0
OWN = "local"
"""Name of the worker's own head among addresses of clusters."""
LONGEST = 43
"""Bytes that the path of a head's directory may have: Ray's sockets in it add 64, and a socket's may have 107."""
LONGEST_PARENT = LONGEST - len(f"/{PREFIX}12345678/h0")
_OF_THE_WORKER = ("redis_url", "prefix", "tenants", "log_file", "health", "party", "peers", "peer_pins", "jobs")
_GROUPS_OF_THE_WORKER = ("ray_", "gateway_", "tls_", "job_logs")
"""Settings that nodes on the own head do not get, and beginnings of others' names."""


class LocalHead:
    """The head, from the first call of `address` to `stop`. One that died is replaced at the next call."""

    def __init__(self, settings: Settings, run_dir: str) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._parties = settings.own_ray_parties()
        # Ray's ports run whatever they are sent, and loopback is everybody's on this host.
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        """Variables by which a driver shows that it is this worker's."""
        self._environment = job_environment(settings) | _of_nodes(settings) | self.token
        self._numbers = count()
        self._lock = anyio.Lock()
        self._process: Process | None = None
        self._lines: LineChannel | None = None
        self._alive = -1
        self._address = ""
        self.pid = 0
        """Process id, and number of the session, of the head that was started last."""

    async def address(self) -> str:
        """Return the address of the head, which runs. Raises ClusterInitializationError where none can be started."""
        async with self._lock:
            if self._process is None or self._process.returncode is not None:
                await self.stop()
                try:
                    self._address = await self._start()
                except BaseException:
                    await self.stop()
                    raise
            return self._address

    async def stop(self) -> None:
        """End the head with everything that runs on it."""
        if self._alive >= 0:
            os.close(self._alive)  # by which its watcher knows
            self._alive = -1
        if self._process is not None:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(STOP_SECONDS):
                    await self._process.wait()
                    async for _ in self._output:  # which the watcher closes when nothing is left
                        pass
                await self._output.aclose()
            self._process = None
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    async def _start(self) -> str:
        directory = self._new_directory()
        if (length := len(os.fsencode(directory))) > LONGEST:
            raise ClusterInitializationError(
                f"this worker's Ray head cannot run, as the path of its directory would have {length} bytes, too many "
                f"for sockets in it; set {variable('run_dir')} to a directory whose path has at most {LONGEST_PARENT}"
            )
        alive, self._alive = os.pipe()
        log_read, log_write = os.pipe()
        self._lines = LineChannel(log_read, _log_line)
        began = anyio.current_time()
        try:
            os.mkdir(directory, 0o700)
            self._process = process = await anyio.open_process(
                entry.command("sfworker.ray.head", "--directory", directory, "--parties", json.dumps(self._parties)),
                env=self._environment,
                stdin=alive,
                stderr=log_write,
                start_new_session=True,
            )
            self.pid = process.pid
            self._output = cast(ByteReceiveStream, process.stdout)
            with anyio.fail_after(START_SECONDS):
                said = await BufferedByteReceiveStream(self._output).receive_until(b"\n", 100)
        except (OSError, TimeoutError, anyio.IncompleteRead) as error:
            what = {TimeoutError: f"it took over {START_SECONDS:.0f} s", anyio.IncompleteRead: "it ended at once"}
            told = what.get(type(error)) or os.strerror(getattr(error, "errno", None) or 0)
            raise ClusterInitializationError(f"this worker's Ray head could not be started ({told})") from None
        else:
            _log.info("a Ray head of this worker's own is ready after %.1f s", anyio.current_time() - began)
            return said.decode()
        finally:
            os.close(alive)
            os.close(log_write)

    def _new_directory(self) -> str:
        """Return a name that is not in use: the head before may not be gone yet."""
        while os.path.exists(directory := f"{self._run_dir}/h{next(self._numbers) % 10}"):
            pass
        return directory


def _of_nodes(settings: Settings) -> dict[str, str]:
    """Return the variables of the worker's settings that are those of nodes, too."""
    values = {
        name: value
        for name, value in msgspec.to_builtins(settings).items()
        if name not in _OF_THE_WORKER and not name.startswith(_GROUPS_OF_THE_WORKER)
    }
    values["data_roots"] = json.dumps({party: settings.roots_of(party) for party in settings.own_ray_parties()})
    values["run_dir"] = os.path.abspath(settings.run_dir)
    return {variable(name): _text(value) for name, value in values.items() if value not in ("", [], {})}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _log_line(line: bytes) -> None:
    party_line(line, party="ray head", verbatim=True)
