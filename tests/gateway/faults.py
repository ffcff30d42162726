"""What parties on hosts of their own hear of each other's faults, and how soon, as a table.

    python -m tests.gateway.faults [WORD ...]       # all faults, or those whose names hold a word

Each fault happens on real hosts (`lab.py`) with a worker, a gateway and a Redis each, and has bounds that are asserted:
who dies, fails, hangs or is cut off is known at the others by name and cause.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.gateway.dialling import split
from sfworker.gateway.session import SHORTEST_CALL
from sfworker.wire.frames import encode_frame
from tests.gateway.lab import Lab, Wire, missing
from tests.gateway.sites import Sites
from tests.gateway.test_strangers import answer, certificate, preface
from tests.grounds import print_all
from tests.running_worker import FINAL, PARTIES, kill, until

SILENCE, RENDEZVOUS = 5.0, 12.0
AT_ONCE = 1.0
"""Seconds by which a fault that shows is known everywhere."""
SILENT = SILENCE + 1.0
DRAIN = 5.0
HEALTH_PORT = 8080
STRANGER = "mallory"
ROWS = 1000


@dataclass(frozen=True)
class Heard:
    """What a party's web side hears at the end of a job: `kind` is the error's type where there is one."""

    party: str
    kind: str
    error: str
    seconds: float

    def require(self, kind: str, says: str = "", within: float = AT_ONCE) -> None:
        assert self.kind == kind, self
        assert re.match(says, self.error), self
        assert self.seconds < within, self


class Ground:
    """The sites, on which one fault is tried after the other. What is heard stays in `record`."""

    def __init__(self, lab: Lab, sites: Sites) -> None:
        self.lab = lab
        self.sites = sites
        self.record: list[Heard] = []

    def send(self, task: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        jobs = self.sites.jobs(task, **more)
        for party, job in jobs.items():
            self.sites[party].worker.send(job)
        return jobs

    def begin(self, task: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        """Send a job to all parties and wait until they compute."""
        jobs = self.send(task, **more)
        for party, job in jobs.items():
            self.sites[party].worker.until_said(job["execution_id"], "devices_ready")
        return jobs

    def hear(
        self, jobs: dict[str, dict[str, Any]], since: float, *, statuses: set[str] = FINAL, seconds: float = 60.0
    ) -> dict[str, Heard]:
        """The first event of one of the statuses at each party, and its time after `since`."""
        found: dict[str, Heard] = {}

        def all_heard() -> bool:
            for party in jobs.keys() - found.keys():
                for event in self.sites[party].worker.said(jobs[party]["execution_id"]):
                    if event["status"] in statuses:
                        kind = event.get("error_type") or event["status"]
                        found[party] = Heard(party, kind, event.get("error") or "", time.monotonic() - since)
                        self.record.append(found[party])
                        break
            return len(found) == len(jobs)

        until(all_heard, seconds)
        return found

    def cancel(self, party: str, execution_id: str) -> None:
        self.sites[party].worker.redis.set(f"sf:cancel:{execution_id}", 1, ex=100)
        self.sites[party].worker.redis.publish("sf:control", execution_id)

    def psi(self, rows: int = ROWS, **more: Any) -> dict[str, Any]:
        """A task whose answer is known, with its files in place."""
        for number, party in enumerate(PARTIES):
            ids = range(number * rows // 2, number * rows // 2 + rows)
            pd.DataFrame({"id": ids, party: ids}).to_csv(self.sites[party].data / "in.csv", index=False)
            (self.sites[party].data / "out.csv").unlink(missing_ok=True)
        task: dict[str, Any] = {"task_type": "psi", "keys": {party: ["id"] for party in PARTIES}, "receiver": "alice"}
        task |= {"input_paths": dict.fromkeys(PARTIES, "in.csv"), "output_paths": dict.fromkeys(PARTIES, "out.csv")}
        return task | more

    def require_joined(self, jobs: dict[str, dict[str, Any]], since: float, rows: int = ROWS) -> float:
        """Require that a job of `psi` gives what a plain join does, and return its seconds."""
        heard = self.hear(jobs, since, seconds=120.0)
        expected = list(range(rows // 2, rows))
        for party, job in jobs.items():
            heard[party].require("SUCCESS", within=120.0)
            [result] = self.sites[party].worker.said(job["execution_id"], "result")
            assert result["result"]["intersection_count"] == len(expected)
        alice, bob = (pd.read_csv(self.sites[party].data / "out.csv") for party in PARTIES)
        assert sorted(alice["id"]) == expected
        assert list(alice["id"]) == list(alice["alice"]) == list(bob["id"]) == list(bob["bob"])
        return max(each.seconds for each in heard.values())

    def require_well(self) -> None:
        """Require that nothing of the fault is left over, and that the next job succeeds."""
        for site in self.sites.sites.values():
            until(lambda site=site: not site.worker.executions_on_disk())  # type: ignore[misc]
        for result in self.sites.run(self.sites.jobs({"task_type": "health_check"})).values():
            assert result["status"] == "success", result

    @contextmanager
    def other_gateway(self, at: str, *program: str, worker: bool, **changes: str) -> Iterator[None]:
        """Another gateway in place of a party's own for the block, with its worker or alone."""
        site = self.sites[at]
        site.worker.stop()
        site.stop_gateway()
        site.start_gateway(*program, **changes)
        if worker:
            site.worker.start()
        try:
            yield
        finally:
            if worker:
                site.worker.stop()
            site.stop_gateway()
            site.start_gateway()
            site.worker.start()


@dataclass(frozen=True)
class Fault:
    """One row of the table: what happens, on which ground, and whether that takes long."""

    name: str
    ground: str
    slow: bool
    run: Callable[[Ground], None]


FAULTS: dict[str, Fault] = {}


def fault(name: str, ground: str = "two", *, slow: bool = False) -> Callable[[Callable[[Ground], None]], Any]:
    def add(run: Callable[[Ground], None]) -> Callable[[Ground], None]:
        FAULTS[run.__name__] = Fault(name, ground, slow, run)
        return run

    return add


@contextmanager
def ground(kind: str, directory: Path) -> Iterator[Ground]:
    """Make `two` or `three` parties, or two with a wire between them that is `far` and loses packets."""
    parties = [*PARTIES, "carol"] if kind == "three" else PARTIES
    with ExitStack() as stack:
        lab = stack.enter_context(Lab([*parties, STRANGER], Wire(delay=0.02, loss=0.02) if kind == "far" else None))
        settings: dict[str, Any] = {
            "peer_silence_seconds": str(SILENCE),
            "rendezvous_seconds": str(RENDEZVOUS),
            "concurrency": "2",
            "health": f"0.0.0.0:{HEALTH_PORT}",
        }
        sites = stack.enter_context(Sites(directory, parties, lab=lab, **settings))
        for stranger in {STRANGER, "carol"} - set(parties):
            make_certificate(sites.certificates, stranger, 5)
        yield Ground(lab, sites)


def act(action: str, at: str | None = "alice", **more: Any) -> dict[str, Any]:
    return {"task_type": "act", "action": action, "at": at, **more}


# --- a party fails


@fault("a party process of alice is killed (kill -9)")
def process_killed(ground: Ground) -> None:
    jobs = ground.begin(act("hang"))
    [process] = until(ground.sites["alice"].worker.parties_with_children)
    kill(process)
    heard = ground.hear(jobs, time.monotonic())
    heard["alice"].require("PartyProcessLostError", "the process of alice was killed")
    heard["bob"].require("PeerFailedError", "party alice failed with PartyProcessLostError: the process of alice was")


@fault("the input of bob is wrong (InputDataError)")
def wrong_input(ground: Ground) -> None:
    since = time.monotonic()
    heard = ground.hear(ground.send(act("raise_final", "bob")), since)
    heard["bob"].require("InputDataError", within=3 * AT_ONCE)
    says = "party bob failed with InputDataError: task_config.action: told to raise"
    heard["alice"].require("PeerFailedError", says, heard["bob"].seconds + AT_ONCE)


@fault("alice retries, bob does not", slow=True)
def one_retries(ground: Ground) -> None:
    jobs = ground.sites.jobs(act("raise", "bob"), options={"max_retries": 2, "retry_delay": 0.5})
    jobs["bob"]["options"] = jobs["bob"]["options"] | {"max_retries": 0}
    for party, job in jobs.items():
        ground.sites[party].worker.send(job)
    heard = ground.hear(jobs, time.monotonic())
    heard["bob"].require("TaskExecutionError", within=3 * AT_ONCE)
    # After her pause of half a second and a quarter of it.
    within = heard["bob"].seconds + 0.7 + AT_ONCE
    heard["alice"].require("PeerFailedError", r"party bob has ended this execution \(TaskExecutionError: told", within)


@fault("alice is cancelled", slow=True)
def cancelled(ground: Ground) -> None:
    jobs = ground.begin(act("hang"))
    since = time.monotonic()
    ground.cancel("alice", jobs["alice"]["execution_id"])
    heard = ground.hear(jobs, since)
    heard["alice"].require("CANCELLED", within=2.0)
    heard["bob"].require("PeerFailedError", "party alice failed with JobCancelledError", within=2.0)


@fault("alice's worker is killed (kill -9), and started again", slow=True)
def worker_killed(ground: Ground) -> None:
    jobs = ground.begin(act("hang"))
    worker = ground.sites["alice"].worker
    worker.kill()
    try:
        bob = ground.hear({"bob": jobs["bob"]}, time.monotonic())["bob"]
        bob.require("PeerFailedError", "party alice failed with PartyProcessLostError: its worker ended")
    finally:
        worker.start()
    started = time.monotonic()
    alice = ground.hear({"alice": jobs["alice"]}, started)["alice"]
    alice.require("PeerFailedError", r"party bob has ended this execution \(PeerFailedError", within=30.0)


@fault("alice's worker is stopped for an upgrade, and started again", slow=True)
def worker_replaced(ground: Ground) -> None:
    """Neither uses up an attempt."""
    jobs = ground.begin(act("hang", attempts=1), options={"max_retries": 0})
    worker = ground.sites["alice"].worker
    since = time.monotonic()
    try:
        assert worker.stop() == 0  # having waited for the job
        bob = ground.hear({"bob": jobs["bob"]}, since, statuses={"RETRY"})["bob"]
        bob.require("PeerAbsentError", "party alice has left the execution to another worker there", DRAIN + SILENCE)
    finally:
        worker.start()
    for each in ground.hear(jobs, time.monotonic()).values():
        each.require("SUCCESS", within=RENDEZVOUS)


@fault("alice's worker hangs (kill -STOP)", slow=True)
def worker_hangs(ground: Ground) -> None:
    hangs(ground, ground.sites["alice"].worker.process.pid)


@fault("alice's gateway hangs (kill -STOP)", slow=True)
def gateway_hangs(ground: Ground) -> None:
    gateway = ground.sites["alice"].gateway
    assert gateway is not None
    hangs(ground, gateway.pid)


def hangs(ground: Ground, pid: int) -> None:
    jobs = ground.begin(act("hang", "bob"))
    os.kill(pid, signal.SIGSTOP)
    since = time.monotonic()
    try:
        heard = ground.hear({"bob": jobs["bob"]}, since)["bob"]
        heard.require("PeerFailedError", "party alice was silent for 5 s", SILENT)
    finally:
        os.kill(pid, signal.SIGCONT)
    heard = ground.hear({"alice": jobs["alice"]}, time.monotonic())["alice"]
    heard.require("PeerFailedError", "party bob .*was silent for 5 s", 2 * AT_ONCE)


@fault("alice's gateway is killed (kill -9)", slow=True)
def gateway_killed(ground: Ground) -> None:
    """Neither uses up an attempt."""
    jobs = ground.begin(act("hang", attempts=1), options={"max_retries": 0})
    site = ground.sites["alice"]
    assert site.gateway is not None
    kill(site.gateway.pid)
    since = time.monotonic()
    heard = ground.hear(jobs, since, statuses={"RETRY"})
    heard["alice"].require("PeerAbsentError", "party bob cannot be heard, as this host's gateway ended")
    heard["bob"].require("PeerAbsentError", "party alice closed the connection without a word")
    for each in ground.hear(jobs, since).values():
        each.require("SUCCESS", within=RENDEZVOUS + 10.0)
    site.gateway.wait()
    started = until(site.gateway_of_worker)
    site.worker.stop()
    kill(started)
    site.start_gateway()
    site.worker.start()


@fault("one of three party processes is killed (kill -9)", "three", slow=True)
def one_of_three_killed(ground: Ground) -> None:
    jobs = ground.begin(act("hang"), protocol="ABY3")
    [process] = until(ground.sites["alice"].worker.parties_with_children)
    kill(process)
    heard = ground.hear(jobs, time.monotonic())
    heard["alice"].require("PartyProcessLostError")
    for party in ("bob", "carol"):
        heard[party].require("PeerFailedError", "party alice failed with PartyProcessLostError: the process of alice")


@fault("one of three hosts is cut off for good", "three", slow=True)
def one_of_three_cut_off(ground: Ground) -> None:
    jobs = ground.begin(act("hang"), protocol="ABY3")
    ground.lab.pull("alice")
    try:
        heard = ground.hear(jobs, time.monotonic())
    finally:
        ground.lab.plug("alice")
    heard["alice"].require("PeerFailedError", "party (bob|carol) was silent for 5 s", SILENT)
    for party in ("bob", "carol"):
        heard[party].require("PeerFailedError", "party alice was silent for 5 s", SILENT)


# --- the link


@fault("the link is down for good", slow=True)
def link_down(ground: Ground) -> None:
    jobs = ground.begin(act("hang"))
    ground.lab.pull("alice")
    try:
        heard = ground.hear(jobs, time.monotonic())
    finally:
        ground.lab.plug("alice")
    heard["alice"].require("PeerFailedError", "party bob was silent for 5 s", SILENT)
    heard["bob"].require("PeerFailedError", "party alice was silent for 5 s", SILENT)


@fault("alice's own interface is down for good", slow=True)
def interface_down(ground: Ground) -> None:
    jobs = ground.begin(act("hang"))
    ground.lab["alice"].ip("link", "set", "eth0", "down")
    try:
        heard = ground.hear(jobs, time.monotonic())
    finally:
        ground.lab["alice"].ip("link", "set", "eth0", "up")
    heard["alice"].require("PeerFailedError", "party bob was silent for 5 s", SILENT)
    heard["bob"].require("PeerFailedError", "party alice was silent for 5 s", SILENT)


@fault("the link is down for 3 s while PSI runs", slow=True)
def link_down_shortly(ground: Ground) -> None:
    rows = 100_000
    jobs = ground.begin(ground.psi(rows, protocol="PROTOCOL_ECDH"))
    since = time.monotonic()
    time.sleep(0.3)
    ground.lab.pull("alice")
    time.sleep(3.0)
    ground.lab.plug("alice")
    assert ground.require_joined(jobs, since, rows) > 3.3


@fault("packets are late by 20 ms each way, and every fiftieth is lost", "far", slow=True)
def lossy_link(ground: Ground) -> None:
    for protocol in ("PROTOCOL_RR22", "PROTOCOL_ECDH"):
        since = time.monotonic()
        ground.require_joined(ground.send(ground.psi(protocol=protocol)), since)


@fault("the same, and a party process of alice is killed (kill -9)", "far", slow=True)
def killed_far_away(ground: Ground) -> None:
    process_killed(ground)


# --- a party comes late, not at all, or as somebody else


@fault("bob comes 20 s late", slow=True)
def late(ground: Ground) -> None:
    jobs = ground.sites.jobs(act("succeed", None), options={"max_retries": 0})
    ground.sites["alice"].worker.send(jobs["alice"])
    time.sleep(20.0)
    ground.sites["bob"].worker.send(jobs["bob"])
    heard = ground.hear(jobs, time.monotonic())
    for each in heard.values():
        each.require("SUCCESS", within=RENDEZVOUS / 4 + 2.0)


@fault("bob never comes", slow=True)
def never(ground: Ground) -> None:
    job = {"alice": ground.sites.jobs(act("succeed", None))["alice"]}
    is_absent(ground, job, "it has not begun this execution")


@fault("bob's host is away", slow=True)
def host_away(ground: Ground) -> None:
    ground.lab.pull("bob")
    try:
        job = {"alice": ground.sites.jobs(act("succeed", None))["alice"]}
        is_absent(ground, job, "it cannot be reached")
    finally:
        ground.lab.plug("bob")


@fault("carol's gateway answers at bob's address", slow=True)
def another_party_answers(ground: Ground) -> None:
    certificates = ground.sites.certificates
    names = {"tls_certificate": str(certificates / "carol.pem"), "tls_key": str(certificates / "carol.key")}
    peers = f"alice={ground.sites['alice'].settings['gateway_listen']}"
    with ground.other_gateway("bob", worker=False, party="carol", peers=peers, **names):
        job = {"alice": ground.sites.jobs(act("succeed", None))["alice"]}
        is_absent(ground, job, "it is refused, as its address has the certificate of carol")


def is_absent(ground: Ground, job: dict[str, dict[str, Any]], why: str) -> None:
    ground.sites["alice"].worker.send(job["alice"])
    heard = ground.hear(job, time.monotonic(), statuses={"RETRY"})["alice"]
    within = RENDEZVOUS + SHORTEST_CALL + AT_ONCE
    heard.require("PeerAbsentError", rf"party bob did not come within \d+ s: {why}", within)
    ground.cancel("alice", job["alice"]["execution_id"])
    ground.sites["alice"].worker.until_ended(job["alice"]["execution_id"])


@fault("bob calls himself carol in his envelope")
def misnamed(ground: Ground) -> None:
    jobs = ground.sites.jobs(act("succeed", None))
    jobs["bob"]["sf_init_config"] = {"cluster_config": {"parties": {"alice": {}, "carol": {}}, "self_party": "carol"}}
    refused_at_both(ground, jobs, "ParameterValidationError", "ParameterValidationError")


@fault("bob is sent another job under the same id")
def another_job(ground: Ground) -> None:
    jobs = ground.sites.jobs(act("succeed", None))
    jobs["bob"]["task_config"] = act("hang")
    refused_at_both(ground, jobs, "PeerFailedError", "was sent another job under this execution_id: its parameters")


@fault("bob is sent another list of parties", "three", slow=True)
def another_list(ground: Ground) -> None:
    jobs = ground.sites.jobs(act("succeed", None))
    jobs = {party: jobs[party] for party in PARTIES}
    jobs["bob"]["sf_init_config"] = {
        "cluster_config": {"parties": {"alice": {}, "bob": {}}, "self_party": "bob"},
    }
    refused_at_both(ground, jobs, "PeerFailedError", "was sent another job under this execution_id: its parties")


@fault("bob's site speaks another version of the protocol", slow=True)
def another_version(ground: Ground) -> None:
    program = "import sfworker.wire.gateway as wire; wire.VERSION = 2; from sfworker.cli import main; main()"
    with ground.other_gateway("bob", "-c", program, worker=True):
        jobs = ground.sites.jobs(act("succeed", None))
        refused_at_both(ground, jobs, "PeerFailedError", r"speaks version \d of the protocol and no other")


def refused_at_both(ground: Ground, jobs: dict[str, dict[str, Any]], kind: str, why: str) -> None:
    for party, job in jobs.items():
        ground.sites[party].worker.send(job)
    heard = ground.hear(jobs, time.monotonic())
    heard["alice"].require("PeerFailedError", f"party bob .*{why}")
    heard["bob"].require(kind)


# --- strangers


@fault("strangers come with certificates, names, versions and words that are no peer's while a job runs")
def strangers(ground: Ground) -> None:
    jobs = ground.begin(act("report", None, seconds=2.0))
    since = time.monotonic()
    execution_id = f":{jobs['alice']['execution_id']}"  # of no tenant
    certificates = ground.sites.certificates
    with tempfile.TemporaryDirectory() as made:
        foreign = Path(made, "foreign")
        foreign.mkdir()
        make_authority(foreign, 5)
        make_certificate(foreign, "bob", 5)
        expired = certificate(ground.sites, Path(made), ["sfworker:party:bob"], (-5, -1))
        for shown in (None, expired, foreign / "bob.pem", certificates / f"{STRANGER}.pem", certificates / "alice.pem"):
            for channel in ("control", "fed", "spu-0"):
                said = said_to(ground, shown, encode_frame(preface(execution_id=execution_id, channel=channel)))
                assert said is None or said.verdict == "refused" or "this certificate" in said.why, (shown, said)
    for words in (
        preface(version=2),
        preface(to="carol"),
        preface(execution_id=execution_id, channel="fed"),  # without the nonce of its hello
    ):
        assert said_to(ground, certificates / "bob.pem", encode_frame(words)).verdict == "refused", words
    for noise in (os.urandom(1000), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + os.urandom(500)):
        with ground.lab[STRANGER].connect(port_of_alice(ground)) as connection, suppress(ConnectionError):
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
    for heard in ground.hear(jobs, since).values():
        heard.require("SUCCESS", within=30.0)


@fault("a flood of connections and handshakes that stop half-way fill alice's port while PSI runs", slow=True)
def flood(ground: Ground) -> None:
    since = time.monotonic()
    alone = ground.require_joined(ground.send(ground.psi()), since)
    over = threading.Event()
    opened: list[socket.socket] = []

    def rush() -> None:
        while not over.is_set():
            with suppress(OSError):
                opened.append(ground.lab[STRANGER].connect(port_of_alice(ground), 1.0))
                opened[-1].send(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a handshake, and then no more
            over.wait(0.002)

    rushing = threading.Thread(target=rush)
    rushing.start()
    try:
        until(lambda: len(opened) > 100)
        since = time.monotonic()
        flooded = ground.require_joined(ground.send(ground.psi()), since)
        assert flooded < alone + 3.0, (alone, flooded)
    finally:
        over.set()
        rushing.join()
        for connection in opened:
            connection.close()


def port_of_alice(ground: Ground) -> tuple[str, int]:
    return split(ground.sites["alice"].settings["gateway_listen"])


def said_to(ground: Ground, shown: Path | None, words: bytes) -> Any:
    """What alice's gateway says to the stranger's host, which shows a certificate, or None where it hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ground.sites.certificates / "authority.pem")
    if shown is not None:
        context.load_cert_chain(shown, shown.with_suffix(".key"))
    try:
        with context.wrap_socket(ground.lab[STRANGER].connect(port_of_alice(ground))) as connection:
            connection.sendall(words)
            return answer(connection)
    except (ssl.SSLError, ConnectionError):
        return None


@fault("two jobs at once")
def two_at_once(ground: Ground) -> None:
    first = ground.send({"task_type": "health_check"})
    since = time.monotonic()
    second = ground.send(ground.psi())
    ground.require_joined(second, since)
    for each in ground.hear(first, since).values():
        each.require("SUCCESS", within=30.0)


def main(words: list[str]) -> int:
    """Try the faults, print what was heard, and return 1 where a bound was missed."""
    if missing():
        print(missing())
        return 1
    table = Table("fault", "party", "hears", "after", "bound")
    return print_all([*FAULTS.values()], words, ground, _tried, table, 200)


def _tried(fault: Fault, made: Ground, table: Table) -> str:
    """Add a fault's rows to the table and return whether its bounds were met."""
    made.record.clear()
    verdict = "met"
    try:
        fault.run(made)
        made.require_well()
    except AssertionError as error:
        verdict = "MISSED"
        print(f"{fault.name}: {error}", file=sys.stderr)
    for number, heard in enumerate(made.record or [Heard("", "", "", 0.0)]):
        says = f"{heard.kind}: {heard.error}" if heard.error else heard.kind
        name, bound = ("", "") if number else (fault.name, verdict)
        table.add_row(name, heard.party, says, f"{heard.seconds:.2f} s", bound)
    return verdict


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
