"""Shows status events as they come: a bar per execution on a terminal, a line per event anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from sfworker.cli.plain import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# How far along the bar a stage is; the job's own progress fills what is left.
_STAGES = {"task_started": 0.0, "cluster_ready": 0.05, "devices_ready": 0.1}
_WORDS = {
    "task_started": "started",
    "cluster_ready": "parties joined",
    "devices_ready": "devices ready",
    "progress": "computing",
    "task_succeeded": "done",
    "task_retrying": "waits for its next attempt",
    "task_replayed": "replayed",
    "task_failed_final": "failed",
    "task_cancelled": "cancelled",
}
_ENDINGS = {"SUCCESS", "FAILURE", "CANCELLED"}


def fraction(event: dict[str, Any], before: float = 0.0) -> float:
    """Return how far an execution is after `event`, from 0 to 1."""
    if event.get("status") == "RETRY":
        return 0.0
    if event.get("stage") == "task_succeeded":
        return 1.0
    if event.get("stage") == "progress":
        start = _STAGES["devices_ready"]
        return start + (1 - start) * float(event.get("progress") or 0.0)
    return _STAGES.get(str(event.get("stage")), before)


def sentence(event: dict[str, Any]) -> str:
    """Return what `event` says, in words."""
    stage = str(event.get("stage", ""))
    return str(event.get("error") or event.get("message") or _WORDS.get(stage, stage))


class EventDisplay:
    """Shows the events of executions. Use as `with EventDisplay(console) as display: display.show(event)`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> EventDisplay:
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
            from rich.table import Column

            width = self._console.width
            self._bars = Progress(
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=10 if width < 120 else 40),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                # Bounded, or long words would leave no room for the bar.
                TextColumn(
                    "{task.fields[said]}", markup=False, table_column=Column(no_wrap=True, max_width=width // 3)
                ),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def expect(self, execution_id: str, title: str | None = None) -> None:
        """Announce an execution that has said nothing yet."""
        if self._bars is not None and execution_id not in self._tasks:
            self._tasks[execution_id] = self._bars.add_task(plain(title or execution_id), total=1.0, said="queued")

    def note(self, text: str) -> None:
        """Print a sentence, above the bars where there are some."""
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def show(self, event: dict[str, Any], title: str | None = None) -> None:
        """Show an event; `title` names its execution instead of the id."""
        execution_id = str(event.get("execution_id"))
        if self._bars is None:
            percent = f" {float(event['progress']):4.0%}" if event.get("progress") is not None else ""
            time = str(event.get("timestamp", ""))[11:23]
            name = title or execution_id
            self._console.print(f"{time} {name} {event.get('status')} {event.get('stage')}{percent}: {sentence(event)}")
            return
        self.expect(execution_id, title)
        task = self._tasks[execution_id]
        before = self._bars.tasks[task].completed
        said = sentence(event)
        if event.get("error"):  # too long for the bar's line
            self.note(f"{title or execution_id}: {said}")
            said = sentence({"stage": event.get("stage")})
        self._bars.update(task, completed=fraction(event, before), said=plain(said))
        if event.get("status") in _ENDINGS:
            self._bars.stop_task(task)
