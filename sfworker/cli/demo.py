"""`sfworker demo`: the whole path on this machine, with embedded Redis and a real worker, checked against scikit-learn.

    demo --XADD--> embedded Redis <--> worker (a process of its own) --> party processes alice, bob

Two parties hold different columns about partly different customers. They find their common customers, train a logistic
regression on three quarters of them, predict for the others and evaluate, none seeing the other's data; then the
figures are compared with what plain Python finds on the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.cli.demo_data import DemoData
    from sfworker.cli.progress import EventDisplay
    from sfworker.client import Client

SUMMARY = "Run PSI and a logistic regression between two parties here, and compare with scikit-learn"
PARTIES = ("alice", "bob")
AUC_TOLERANCE = 0.02
TRAINING, HELD_OUT = "training.csv", "held-out.csv"
WORKER_STOP_SECONDS = 10.0
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}


class Report(Struct, frozen=True, kw_only=True):
    """The demo's figures. `stages` holds each job's `performance_metrics`."""

    agrees: bool
    customers_found: int
    customers_expected: int
    customers_held_out: int
    auc_secret_shared: float
    auc_scikit_learn: float
    seconds: float
    stages: dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    report = _demonstrate()
    if arguments.json:
        from sfworker.cli.console import print_json

        print_json(report)
    else:
        _print(report)
    return 0 if report.agrees else 1


def jobs(features: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the five envelopes, in order. Paths are relative to each party's own data root."""
    from sfworker.cli.demo_data import FILE, KEY, LABEL

    keys = {party: [KEY] for party in PARTIES}
    common, training, held_out = (dict.fromkeys(PARTIES, file) for file in ("common.csv", TRAINING, HELD_OUT))
    model = dict.fromkeys(PARTIES, "model")
    tasks: list[dict[str, Any]] = [
        {
            "task_type": "psi",
            "keys": keys,
            "input_paths": dict.fromkeys(PARTIES, FILE),
            "output_paths": common,
            "receiver": "alice",
            "broadcast_result": True,
        },
        {
            "task_type": "train_test_split",
            "input_paths": common,
            "train_paths": training,
            "test_paths": held_out,
            "random_state": 1,
            "stratify": {"party": "alice", "column": LABEL},
        },
        {
            "task_type": "ss_lr",
            "input_paths": training,
            "keys": keys,
            "features": dict(features),
            "label": {"party": "alice", "column": LABEL},
            "model_path": model,
            "epochs": 10,
            "learning_rate": 0.3,
            "batch_size": 64,
        },
        {
            "task_type": "ss_lr_predict",
            "input_paths": held_out,
            "keys": keys,
            "model_path": model,
            "receiver": "alice",
            "output_paths": {"alice": "predictions.csv"},
            "saved_columns": [LABEL],
        },
        {
            "task_type": "biclassification_eval",
            "input_paths": {"alice": "predictions.csv"},
            "label": {"party": "alice", "column": LABEL},
            "prediction": {"party": "alice", "column": "pred"},
        },
    ]
    return [
        {
            "task_id": "demo",
            "subtask_id": str(number),
            "execution_id": f"demo-{number}-{task['task_type']}",
            "sf_init_config": {"parties": list(PARTIES), "address": "local"},
            "spu_config": SPU,
            "task_config": task,
            "options": {"time_limit": 120, "soft_time_limit": 100, "max_retries": 0},
        }
        for number, task in enumerate(tasks, 1)
    ]


def _demonstrate() -> Report:
    from sfworker.cli import demo_data
    from sfworker.cli.child import termination_as_interrupt
    from sfworker.cli.embedded_redis import EmbeddedRedis

    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(termination_as_interrupt())
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sfworker-demo-")))
        redis = stack.enter_context(EmbeddedRedis())
        roots = {party: workspace / party for party in PARTIES}
        for directory in (*roots.values(), workspace / "run"):
            directory.mkdir(mode=0o700)
        worker = stack.enter_context(_worker(redis.url, workspace, roots))
        stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the tidying up
        data = demo_data.write(roots)
        results = asyncio.run(_play(redis.url, jobs(data.features), worker))
        return _report(results, data, roots, began)


async def _play(
    url: str, envelopes: list[dict[str, Any]], worker: subprocess.Popen[bytes]
) -> dict[str, dict[str, Any]]:
    """Run the jobs one after the other; returns each one's result by task type."""
    from sfworker.cli.console import console
    from sfworker.cli.progress import EventDisplay
    from sfworker.client import Client

    results = {}
    with EventDisplay(console(stderr=True)) as display:
        async with Client(url) as client:
            for envelope in envelopes:
                task_type = envelope["task_config"]["task_type"]
                job = asyncio.create_task(_run_job(client, envelope, task_type, display))
                end_of_worker = asyncio.create_task(_ended(worker))
                try:
                    await asyncio.wait({job, end_of_worker}, return_when=asyncio.FIRST_COMPLETED)
                    if not job.done():
                        raise SecretFlowTaskError(f"the worker ended with exit code {worker.returncode}")
                    results[task_type] = job.result()
                finally:
                    await _cancelled(job, end_of_worker)
    return results


async def _run_job(client: Client, envelope: dict[str, Any], title: str, display: EventDisplay) -> dict[str, Any]:
    """Raises SecretFlowTaskError where the job does not succeed."""
    submission = await client.submit(envelope)
    display.expect(submission.execution_id, title)
    async with aclosing(client.events(submission)) as events:
        async for event in events:
            display.show(event, title)
    result = await client.wait(submission.execution_id)
    if result.get("status") != "success":
        raise SecretFlowTaskError(f"{title}: {result.get('error_type')}: {result.get('error')}")
    return result


def _report(results: dict[str, dict[str, Any]], data: DemoData, roots: dict[str, Path], began: float) -> Report:
    from sfworker.cli.demo_data import ids_in

    found = int(results["psi"]["result"]["intersection_count"])
    training, held_out = ids_in(roots["alice"] / TRAINING), ids_in(roots["alice"] / HELD_OUT)
    same_rows = sorted([*training, *held_out]) == sorted(data.shared_ids) and all(
        ids_in(roots[party] / TRAINING) == training and ids_in(roots[party] / HELD_OUT) == held_out for party in PARTIES
    )
    secret = float(results["biclassification_eval"]["result"]["auc"])
    plain = data.plain_auc(training, held_out)
    return Report(
        agrees=found == len(data.shared_ids) and same_rows and abs(secret - plain) <= AUC_TOLERANCE,
        customers_found=found,
        customers_expected=len(data.shared_ids),
        customers_held_out=len(held_out),
        auc_secret_shared=secret,
        auc_scikit_learn=plain,
        seconds=time.monotonic() - began,
        stages={task_type: result["performance_metrics"] for task_type, result in results.items()},
    )


def _print(report: Report) -> None:
    from sfworker.cli.console import console, table
    from sfworker.cli.invocation import command

    out = console()
    figures = table("", "computed in secret >", "expected >")
    figures.add_row("common customers", str(report.customers_found), str(report.customers_expected))
    figures.add_row(
        f"AUC on {report.customers_held_out} held-out ones",
        f"{report.auc_secret_shared:.4f}",
        f"{report.auc_scikit_learn:.4f} scikit-learn",
    )
    out.print(figures)
    columns = ("queue", "cluster_init", "device_init", "execution", "total")
    seconds = table("seconds", *(f"{column.replace('_init', '')} >" for column in columns))
    for task_type, metrics in report.stages.items():
        seconds.add_row(task_type, *(f"{metrics.get(f'{column}_seconds', 0.0):.2f}" for column in columns))
    out.print(seconds)
    verdict = "The figures agree" if report.agrees else "THE FIGURES DIFFER"
    out.print(f"{verdict}. {report.seconds:.1f} s in all.")
    sfworker = command()
    out.print("\nThe demo's Redis, worker and files are gone. To go on:\n")
    for what, line in (
        ("a worker with a Redis of its own, which prints how to send a job", f"{sfworker} run --embedded"),
        ("what it can compute", f"{sfworker} tasks"),
        ("one of these: parameters, result, what it reveals", f"{sfworker} tasks psi"),
    ):
        out.print(f"  {line:<40} # {what}", soft_wrap=True)


@contextmanager
def _worker(redis_url: str, workspace: Path, roots: dict[str, Path]) -> Iterator[subprocess.Popen[bytes]]:
    """`sfworker run` as a process of its own, whose log is shown only if it fails."""
    from sfworker.cli.child import bound_to_this_process, stop
    from sfworker.settings import Settings, variable
    from sfworker.wire import entry

    ours = {variable(name) for name in Settings.__struct_fields__} | {"SFWORKER_CONFIG"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {
        variable("redis_url"): redis_url,
        variable("data_roots"): json.dumps({party: [str(root)] for party, root in roots.items()}),
        variable("run_dir"): str(workspace / "run"),
        variable("drain_timeout"): "0",
    }
    log = workspace / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound_to_this_process(entry.command("sfworker.cli", "run", "--group", "secretflow")),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the worker before Redis
        )
    try:
        yield process
    except SecretFlowTaskError:
        print("The last lines of the worker's log:", *log.read_text().splitlines()[-20:], sep="\n  ", file=sys.stderr)
        raise
    finally:
        stop(process, WORKER_STOP_SECONDS)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:  # noqa: ASYNC110 - a child's end sets no event
        await asyncio.sleep(0.1)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
