"""Messages between a worker and its parties' nodes on a Ray cluster: msgpack structs behind a length, as in `frames`.

    daemon --pair of sockets--> bridge --Ray--> host --pair of sockets--> node --> template, party processes, gateway

Bridge and host know of Ray, daemon and node do not. The daemon asks the bridge to `Place` a job, which is answered by
`Placed` or `Unplaced`, and to `Leave` it. What it says to a node (`ToNode`) and hears of it (`FromNode`) passes through
the bridge in a `Carried`, unread.

The host's first message to the node is a `Setup`, answered by `Ready` or `Unready`. Then each execution has a `Begin`
and, when its process has ended, a `Dismiss`; questions about outputs carry a number, by which `Done` answers them.
Where the session is kept, `RenewRun` and the `Begin` of the next execution, with the same number, come before the
`Dismiss`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sfworker.errors import Failure
from sfworker.wire.frames import Start
from sfworker.wire.gateway import Terms

BEAT_SECONDS = 1.0
"""Pause between the messages by which each side hears that the other is alive."""
USED_SECONDS = 2.0
"""Pause between the messages by which a node tells what an execution has used."""
SILENCE_SECONDS = 5.0
"""Silence after which a bridge or host is given up and killed, and after which a node gives up its worker."""


class Alive(Struct, frozen=True, tag="alive"):
    """The sender is alive. Said every BEAT_SECONDS."""


class Carried(Struct, frozen=True, tag="carried"):
    """A message to or from the node of `party`, encoded."""

    party: str
    body: bytes


class Join(Struct, frozen=True, tag="join", kw_only=True):
    """Tells the bridge which cluster to join, by its first message."""

    address: str
    worker_id: str
    jobs: list[str]
    """The setting of this name."""
    cpus: float
    """Ray's CPUs that each party process takes."""
    directory: str
    """Private, for certificates."""


class Place(Struct, frozen=True, tag="place"):
    """Asks for nodes of these parties, with room for one more party process each."""

    run: int
    parties: list[str]
    room: bool = True
    """False where only outputs are to be removed there."""


class Placed(Struct, frozen=True, tag="placed"):
    """There is room. `gateways` holds the address of each party's gateway."""

    run: int
    gateways: dict[str, str]


class Unplaced(Struct, frozen=True, tag="unplaced"):
    """There is none, as `failure` says. With `later`, the job may come again without using up an attempt."""

    run: int
    failure: Failure
    later: bool = False


class Leave(Struct, frozen=True, tag="leave"):
    """The job has ended, and others may have its room."""

    run: int


class GiveUp(Struct, frozen=True, tag="give_up"):
    """Asks to kill the host of a party, which does not do as it is told any more."""

    party: str


class HostLost(Struct, frozen=True, tag="host_lost"):
    """The host of `party` is gone, with all that ran there. `why` goes on behind the words `the process of <party>`."""

    party: str
    why: str


class BridgeReady(Struct, frozen=True, tag="bridge_ready"):
    """The bridge has joined the cluster."""


class BridgeFailed(Struct, frozen=True, tag="bridge_failed"):
    """The bridge cannot join the cluster, and ends."""

    failure: Failure


class Setup(Struct, frozen=True, tag="setup", kw_only=True):
    """Everything that a node needs to serve as `party`."""

    party: str
    parties: list[str]
    """All that executions here may have, which are the peers of this party's gateway."""
    address: str
    """The node's own in the cluster."""
    jobs: list[str]
    certificate: bytes
    key: bytes
    authority: bytes


class Ready(Struct, frozen=True, tag="ready"):
    """The node's template and gateway are ready. `versions` are those of what has to be the same everywhere."""

    gateway: str
    versions: dict[str, str]
    pid: int


class Unready(Struct, frozen=True, tag="unready"):
    """The node cannot serve, and ends."""

    failure: Failure


class Bound(Struct, frozen=True):
    """An amount that is granted, and what may be done where it is not enough."""

    amount: int
    remedy: str


class Begin(Struct, frozen=True, tag="begin", kw_only=True):
    """Starts the party's process of an execution. The node puts its own paths and limits into `start`."""

    run: int
    start: Start
    session: str
    """Id under which the gateways know the links, the execution's unless the session is kept."""
    tenant: str
    gateways: dict[str, str]
    """Addresses of the other parties'."""
    terms: Terms
    located: str
    """Goes in front of the paths of outputs that the node tells, so that it is known whose they are."""
    threads: int = 0
    """Processors that it may use; 0: all."""
    memory: Bound | None = None
    """Bytes of memory at this node."""
    scratch: Bound | None = None
    """Bytes of scratch disk at this node."""


class RenewRun(Struct, frozen=True, tag="renew"):
    """Asks to let the execution be forgotten, so that its process can serve another one.

    What the process answers (`frames.Renewed`) follows when all that the execution had at this node is removed.
    """

    run: int


class SignalRun(Struct, frozen=True, tag="signal"):
    """Asks to signal the execution's process, or its group."""

    run: int
    number: int
    whole_group: bool


class Dismiss(Struct, frozen=True, tag="dismiss"):
    """Lets the process go. When it has ended, what it has staged and nobody committed is removed with its directory."""

    run: int


class Flush(Struct, frozen=True, tag="flush"):
    """Asks to flush the execution's staged outputs to disk."""

    number: int
    run: int


class Commit(Struct, frozen=True, tag="commit"):
    """Asks to rename them into place."""

    number: int
    run: int


class Remove(Struct, frozen=True, tag="remove"):
    """Asks to remove staged outputs, checkpoints and empty directories which attempts have left."""

    number: int
    paths: list[str]


class Said(Struct, frozen=True, tag="said"):
    """The party process has sent a frame, which the node has found to be one that it may send."""

    run: int
    body: bytes


class Nonsense(Struct, frozen=True, tag="nonsense"):
    """It has sent what no party process may send, as `what` says."""

    run: int
    what: str


class Printed(Struct, frozen=True, tag="printed"):
    """It has written a line to its output, of which `line` is a record free of data (`sfworker.wire.party_log`)."""

    run: int
    line: bytes


class Closed(Struct, frozen=True, tag="closed"):
    """It has closed its socket."""

    run: int


class Exited(Struct, frozen=True, tag="exited"):
    """It has ended, as `how` says in words behind the process's name; `status` as in `frames.Exited`."""

    run: int
    status: int | None
    how: str


class LinkLost(Struct, frozen=True, tag="link_lost"):
    """The gateway of another party is not there for this execution, as `why` says behind its name."""

    run: int
    party: str
    why: str


class Broken(Struct, frozen=True, tag="broken"):
    """The execution cannot go on at this node."""

    run: int
    failure: Failure


class Used(Struct, frozen=True, tag="used"):
    """The processor time that the execution has used at this node. None: a process waits for a disk right now."""

    run: int
    seconds: float | None


class Done(Struct, frozen=True, tag="done"):
    """Answers a question about outputs. `failure` says why it could not be done."""

    number: Annotated[int, Meta(ge=0)]
    failure: Failure | None = None


ToNode = Setup | Alive | Begin | RenewRun | SignalRun | Dismiss | Flush | Commit | Remove
FromNode = Ready | Unready | Alive | Said | Nonsense | Printed | Closed | Exited | LinkLost | Broken | Used | Done
decode_for_bridge: Any = msgspec.msgpack.Decoder(Join | Alive | Carried | Place | Leave | GiveUp).decode
decode_from_bridge: Any = msgspec.msgpack.Decoder(
    Alive | Carried | Placed | Unplaced | HostLost | BridgeReady | BridgeFailed
).decode
decode_for_node: Any = msgspec.msgpack.Decoder(ToNode).decode
decode_from_node: Any = msgspec.msgpack.Decoder(FromNode).decode
