"""Names all keys and channels. The first seven rows are a contract with the web side.

A tenant has all of these, its channels `task_status` too, under a prefix of its own, `sf:tenant:<name>`. Only the
workers, who serve all tenants, and the orders to them are under the prefix `sf` alone.

| key | type | what |
|---|---|---|
| sf:jobs, sf:jobs:high, sf:jobs:low | stream | job entries: `envelope`, optional `traceparent` |
| sf:results | stream | everything said: status events and results |
| sf:notices | stream | executions that were sent again: `execution_id`, `entry_id`, `payload` |
| sf:result:<execution_id> | string | the final result, expires |
| task_status:<execution_id>, task_status | channel | status events |
| sf:cancel:<execution_id> | string | the web side wants it cancelled |
| sf:control | channel | an execution id to look at at once (see sf:cancel) |
| sf:exec:<execution_id> | hash | its record: place, state, counters, history; of one that ended: state, group, run |
| sf:envelope:<execution_id> | string | the envelope of one that was answered, expires with its result |
| sf:ended | sorted set | the executions that succeeded, by time in ms: facts as a JSON array (`broker/finding.py`) |
| sf:ended:failure, sf:ended:cancelled | sorted set | the same of others |
| sf:retries:<priority>:<group> | sorted set | ids of the stream's entries that `@retry` owns, by due time in ms |
| sf:answers:<group> | hash | whom to answer for each entry that has begun: ids of its execution, by `stream entry` |
| sf:worker:<worker_id> | string | a live worker's heartbeat, expires |
| sf:orders:<group> | hash | what operators pause, limit and drain, each since when, in ms |
| sf:running:<group> | sorted set | what runs, by task type and by tenant, for limits (`lua/prelude.lua`) |
| sf:starts:<group> | sorted set | starts in the last minute where a limit counts them, expires |
| sf:workers:<group> | hash | when each worker was last here and since when without a break, in ms; `@all`: any |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sfworker.settings import Outcome

PRIORITIES = ("high", "normal", "low")
RETRY_CONSUMER = "@retry"
DEAD_CONSUMER = "@dead"
STATUS_CHANNEL = "task_status"


_TENANT = ":tenant:"


@dataclass(frozen=True)
class Keys:
    """All names under one prefix."""

    prefix: str = "sf"

    def of_tenants(self, names: Iterable[str]) -> list[Keys]:
        """Return the tenants' names, under a prefix each. A tenant has no tenants."""
        return [] if _TENANT in self.prefix else [Keys(f"{self.prefix}{_TENANT}{name}") for name in names]

    @property
    def tenant(self) -> str:
        """The tenant's name, empty where these are not a tenant's."""
        return self.prefix.partition(_TENANT)[2]

    @property
    def all_statuses(self) -> str:
        """Name the channel of all status events.

        It has no prefix but a tenant's, as the first generation of web sides expects.
        """
        return f"{self.prefix}:{STATUS_CHANNEL}" if _TENANT in self.prefix else STATUS_CHANNEL

    def statuses(self, execution_id: str) -> str:
        """Return the channel of one execution's status events."""
        return f"{self.all_statuses}:{execution_id}"

    def jobs(self, priority: str = "normal") -> str:
        return f"{self.prefix}:jobs" if priority == "normal" else f"{self.prefix}:jobs:{priority}"

    def job_streams(self) -> list[str]:
        """Return the job streams, most urgent first."""
        return [self.jobs(priority) for priority in PRIORITIES]

    @property
    def results(self) -> str:
        return f"{self.prefix}:results"

    @property
    def notices(self) -> str:
        return f"{self.prefix}:notices"

    def result(self, execution_id: str) -> str:
        return f"{self.prefix}:result:{execution_id}"

    def cancel(self, execution_id: str) -> str:
        return f"{self.prefix}:cancel:{execution_id}"

    @property
    def control(self) -> str:
        return f"{self.prefix}:control"

    def execution(self, execution_id: str) -> str:
        return f"{self.prefix}:exec:{execution_id}"

    def envelope(self, execution_id: str) -> str:
        return f"{self.prefix}:envelope:{execution_id}"

    def ended(self, outcome: Outcome) -> str:
        """Return the name of the list of executions that ended so."""
        return f"{self.prefix}:ended" if outcome == "success" else f"{self.prefix}:ended:{outcome}"

    def retries(self, stream: str, group: str) -> str:
        """Return the name of a job stream's due times."""
        priority = next(each for each in PRIORITIES if self.jobs(each) == stream)
        return f"{self.prefix}:retries:{priority}:{group}"

    def answers(self, group: str) -> str:
        return f"{self.prefix}:answers:{group}"

    def worker(self, worker_id: str) -> str:
        return f"{self._fleet}:worker:{worker_id}"

    def workers(self, group: str) -> str:
        return f"{self._fleet}:workers:{group}"

    def orders(self, group: str) -> str:
        return f"{self._fleet}:orders:{group}"

    def running(self, group: str) -> str:
        return f"{self._fleet}:running:{group}"

    def starts(self, group: str) -> str:
        return f"{self._fleet}:starts:{group}"

    @property
    def _fleet(self) -> str:
        """The prefix that a tenant shares with others."""
        return self.prefix.partition(_TENANT)[0]
