"""Records what the parties of a mesh send each other. A worker gets it by `--jobs`; it adds no task type.

Objects of SecretFlow's fed API are recorded as they are sent. Each listener of an SPU's link gets a relay before it,
which records what passes, in both directions.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

RECORDED = "recorded"
"""Directory below the run directory, with a directory for each execution."""
_numbers = count()


def _install() -> None:
    import secretflow

    from sfworker.session.device_manager import DeviceManager
    from sfworker.session.fed_proxy import UnixSocketProxy

    stock_init, stock_send, stock_spu = DeviceManager.__init__, UnixSocketProxy.send, secretflow.SPU
    here: list[Any] = []

    def init(self: Any, start: Any) -> None:
        here.append(start)
        stock_init(self, start)

    def send(self: Any, dest_party: str, data: Any, seq_id: int) -> bool:
        from sfworker.session import codec

        [start] = here or [None]
        if start is not None:
            with _file(start).open("ab") as file:
                file.write(codec.dumps(data))
        return stock_send(self, dest_party, data, seq_id)

    def spu(cluster_def: dict[str, Any], **named: Any) -> Any:
        [start] = here
        for node in cluster_def["nodes"]:
            node["listen_address"] = node["address"]
            node["address"] += "t"
            if node["party"] == start.self_party:
                _relay(start, node["address"].removeprefix("unix:"), node["listen_address"].removeprefix("unix:"))
        return stock_spu(cluster_def, **named)

    DeviceManager.__init__, UnixSocketProxy.send, secretflow.SPU = init, send, spu  # type: ignore[method-assign]


def _file(start: Any) -> Path:
    """A new file of this execution and party."""
    directory = Path(start.mesh_dir).parents[1] / RECORDED / start.execution_id
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{start.self_party}-{next(_numbers)}"


def _relay(start: Any, path: str, behind: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            while True:
                try:
                    far.connect(behind)
                except (FileNotFoundError, ConnectionRefusedError):
                    time.sleep(0.005)
                else:
                    break
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, target, _file(start)), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while data := source.recv(1 << 20):
            file.write(data)
            target.sendall(data)


if "secretflow" in sys.modules:  # in the template, and not in the daemon, which reads this file too
    _install()
