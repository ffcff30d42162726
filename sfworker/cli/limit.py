"""`sfworker limit`: how many jobs of a task type or of a tenant may run at once, and start in a minute."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.arguments import count, not_empty
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_to_group, settings_from
from sfworker.cli.pause import strange_type
from sfworker.errors import SecretFlowTaskError, SettingsError
from sfworker.settings import variable

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Limit how many jobs of a task type or of a tenant run at once, and start in a minute; alone, show the limits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--task-type", type=not_empty, metavar="TYPE", help="jobs of this task type")
    which.add_argument("--tenant", type=not_empty, metavar="NAME", help="jobs of this tenant")
    parser.add_argument("--running", type=_number, metavar="N", help="so many at once, over all workers, or `any`")
    parser.add_argument("--per-minute", type=_number, metavar="N", help="so many starts in a minute, or `any`")
    parser.add_argument("--remove", action="store_true", help="let the workers' settings hold again")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_limit(settings_from(arguments), arguments))


async def _limit(settings: Settings, arguments: argparse.Namespace) -> int:
    from msgspec import to_builtins

    from sfworker.broker.limits import RUNNING, STARTS, of_tenant, of_type
    from sfworker.broker.overview import all_limits
    from sfworker.cli.console import say

    asked = {RUNNING: arguments.running, STARTS: arguments.per_minute}
    ordered = {kind: most for kind, most in asked.items() if most is not None}
    subject = of_type(arguments.task_type) if arguments.task_type else ""
    if arguments.tenant:
        if arguments.tenant not in settings.tenants:
            served = ", ".join(settings.tenants) or "none"
            raise SettingsError(f"--tenant: {variable('tenants')} has no {arguments.tenant}, but {served}")
        subject = of_tenant(arguments.tenant)
    if (bool(ordered) and arguments.remove) or bool(subject) != (bool(ordered) or arguments.remove):
        raise SettingsError("say --task-type or --tenant with --running, --per-minute or both, or with --remove alone")
    async with connected_to_group(settings, arguments.group) as (redis, broker):
        for kind, most in ordered.items():
            await broker.order_limit(f"{kind}{subject}", most or None)
        if arguments.remove and not await broker.lift_limits(subject):
            raise SecretFlowTaskError("no limit of that was ordered; those of the workers' settings hold")
        limits = await all_limits(redis, broker.keys, arguments.group, settings.tenants)
    found = [limit for limit in limits if subject in ("", f"{limit.of} {limit.name}")]
    warning = strange_type(settings, arguments.task_type)
    sentences = [limit.sentence for limit in found]
    sentences += [] if found else ["nothing limits that any more" if subject else "nothing is limited"]
    sentences += [warning] if warning else []
    say({"limits": to_builtins(found), "warning": warning}, *sentences, as_json=arguments.json)
    return 0


def _number(text: str) -> int:
    """Read a limit, 0 where it is `any`."""
    return 0 if text == "any" else count(text)
