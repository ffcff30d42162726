"""Hosts with network namespaces of their own, joined by a bridge, or by a wire that loses and delays packets.

A namespace lives as long as a process in it that dies with this one, so nothing is left over. The network between the
hosts is a namespace, too; what is seen, cut and lost happens there and to whole packets, as on a real one.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sfworker.cli.child import bound_to_this_process, stop
from tests.running_worker import until

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_ETH_P_ALL = 0x0003
"""Also what goes out, and what a bridge takes before others see it."""
_LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""States of sockets in /proc/net that wait for whoever comes."""
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_HOP_BY_HOP, _ICMPV6 = 0, 58
_SYN = 0x02
_T = TypeVar("_T")


@functools.cache
def missing() -> str:
    """Say why no lab can be made here, or nothing."""
    try:
        with Lab(["probe"]):
            return ""
    except (OSError, subprocess.CalledProcessError, AssertionError) as error:
        detail = getattr(error, "stderr", None) or error
        return f"NO NETWORK NAMESPACES HERE (root, `ip`, `unshare` and `nsenter` are needed): {detail}"


class Namespace:
    """A network namespace. Use as a context."""

    def __enter__(self) -> Namespace:
        command = bound_to_this_process(["/usr/bin/unshare", "--net", "/usr/bin/sleep", "infinity"])
        self._holder = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        self.path = f"/proc/{self._holder.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")
        until(lambda: self._holder.poll() is not None or os.readlink(self.path) != own, 5.0)
        if self._holder.poll() is not None:
            raise OSError(self._holder.communicate()[1].decode().strip())
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self._holder, 5.0)
        assert self._holder.stderr is not None
        self._holder.stderr.close()

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def enter(self) -> list[str]:
        """The program that starts another one in there, in its own place."""
        return ["/usr/bin/nsenter", f"--net={self.path}"]

    def ip(self, *words: str) -> None:
        subprocess.run([*self.enter, "ip", *words], check=True, capture_output=True, text=True)

    def make(self, what: Callable[[], _T]) -> _T:
        """What `what` returns in there. A socket stays in the namespace that it was made in."""

        def within() -> _T:
            with open(self.path) as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return what()

        with ThreadPoolExecutor(1) as thread:  # which ends, and takes its being there along
            return thread.submit(within).result()

    def connect(self, address: tuple[str, int], seconds: float = 10.0) -> socket.socket:
        return self.make(lambda: socket.create_connection(address, timeout=seconds))

    def listening(self) -> set[tuple[str, int]]:
        """Protocol and port of every socket in there that waits for whoever comes."""
        found = set()
        for protocol, state in _LISTENING.items():
            for line in Path(f"/proc/{self.pid}/net/{protocol}").read_text().splitlines()[1:]:
                _, local, _, is_in, *_ = line.split()
                if is_in == state:
                    found.add((protocol[:3], int(local.rpartition(":")[2], 16)))
        return found

    @contextmanager
    def captured(self, interface: str) -> Iterator[list[bytes]]:
        """Everything that passes an interface in there during the block, from the Ethernet header on."""
        raw = self.make(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        raw.bind((interface, _ETH_P_ALL))
        raw.settimeout(0.2)
        seen: list[bytes] = []
        over = threading.Event()

        def read() -> None:
            while True:
                try:
                    seen.append(raw.recv(1 << 17))
                except TimeoutError:
                    if over.is_set():
                        return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seen
        finally:
            over.set()
            reader.join()
            _, dropped = struct.unpack("II", raw.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
            raw.close()
        assert dropped == 0


def streams(frames: list[bytes]) -> dict[tuple[str, int, str, int], bytes]:
    """What each TCP connection carried in each direction, by sender and receiver.

    Frames of other protocols than ARP and IPv6's search for neighbours fail the test.
    """
    pieces: dict[tuple[str, int, str, int], dict[int, bytes]] = {}
    begins: dict[tuple[str, int, str, int], int] = {}
    for frame in frames:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == _ARP or (kind == _IPV6 and frame[20] in (_HOP_BY_HOP, _ICMPV6)):
            continue
        assert (kind, frame[23]) == (_IPV4, socket.IPPROTO_TCP), frame[:40]
        packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
        segment = packet[4 * (packet[0] & 15) :]
        source, target, number = struct.unpack(">HHI", segment[:8])
        way = (socket.inet_ntoa(packet[12:16]), source, socket.inet_ntoa(packet[16:20]), target)
        if segment[13] & _SYN:
            begins[way] = number + 1
        elif body := segment[4 * (segment[12] >> 4) :]:
            at = number - begins[way] & 0xFFFFFFFF
            pieces.setdefault(way, {})[at] = max(pieces.get(way, {}).get(at, b""), body, key=len)
    said = {way: bytearray() for way in pieces}
    for way, found in pieces.items():
        for at, body in sorted(found.items()):
            assert at <= len(said[way])  # a gap
            said[way] += body[len(said[way]) - at :]
    return {way: bytes(each) for way, each in said.items()}


class Wire:
    """Carries the packets between hosts, each some seconds late, but for those that it loses."""

    def __init__(self, delay: float, loss: float, seed: int = 1) -> None:
        self.delay = delay
        self.loss = loss
        self.lost = self.carried = 0
        self._chance = random.Random(seed)
        self._ends: dict[bytes, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def add(self, host: Namespace, address: str) -> None:
        """Make a host's end of it, a TUN device."""
        name = f"t{os.getpid() % 100000}x{len(self._ends)}"
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        subprocess.run(["ip", "link", "set", name, "netns", str(host.pid)], check=True, capture_output=True)
        host.ip("link", "set", name, "name", "eth0")
        self._ends[socket.inet_aton(address)] = end

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for end in self._ends.values():
            os.close(end)

    def _run(self) -> None:
        on_the_way: list[tuple[float, int, bytes]] = []
        with selectors.DefaultSelector() as selector:
            for end in self._ends.values():
                selector.register(end, selectors.EVENT_READ)
            while not self._over.is_set():
                pause = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else 0.1
                for key, _ in selector.select(min(pause, 0.1)):
                    packet = os.read(key.fd, 1 << 16)
                    if packet[0] >> 4 != 4 or packet[16:20] not in self._ends:  # IPv6 looks for neighbours
                        continue
                    if self._chance.random() < self.loss:
                        self.lost += 1
                        continue
                    self.carried += 1
                    heapq.heappush(on_the_way, (time.monotonic() + self.delay, self.carried, packet))
                while on_the_way and on_the_way[0][0] <= time.monotonic():
                    _, _, packet = heapq.heappop(on_the_way)
                    os.write(self._ends[packet[16:20]], packet)


class Lab:
    """The hosts by name, each with an address of its own. Use as a context."""

    def __init__(self, hosts: list[str], wire: Wire | None = None) -> None:
        self._stack = ExitStack()
        self._wire = wire
        self._addresses = {host: f"10.78.0.{number}" for number, host in enumerate(hosts, 1)}

    def __enter__(self) -> Lab:
        with ExitStack() as stack:
            self.network = stack.enter_context(Namespace())
            self.hosts = {host: stack.enter_context(Namespace()) for host in self._addresses}
            if self._wire is None:
                self.network.ip("link", "add", "name", "bridge", "up", "type", "bridge")
            for name, host in self.hosts.items():
                if self._wire is None:
                    end = ("type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
                    self.network.ip("link", "add", "name", f"to-{name}", *end)
                    self.network.ip("link", "set", f"to-{name}", "master", "bridge", "up")
                else:
                    self._wire.add(host, self.address(name))
                host.ip("addr", "add", f"{self.address(name)}/24", "dev", "eth0")
                host.ip("link", "set", "eth0", "up")
            if self._wire is not None:
                stack.enter_context(self._wire)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, host: str) -> Namespace:
        return self.hosts[host]

    def address(self, host: str) -> str:
        return self._addresses[host]

    def pull(self, host: str) -> None:
        """Pull a host's plug: packets vanish, and nobody is told."""
        self.network.ip("link", "set", f"to-{host}", "down")

    def plug(self, host: str) -> None:
        self.network.ip("link", "set", f"to-{host}", "up")

    def captured(self, host: str) -> AbstractContextManager[list[bytes]]:
        """Everything that a host sends and gets during the block."""
        return self.network.captured(f"to-{host}")
