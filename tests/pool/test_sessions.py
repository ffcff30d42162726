"""Kept sessions: which job waits for which."""

from __future__ import annotations

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from sfworker.pool.party_process import PartyProcess
from sfworker.pool.sessions import Session, Sessions
from sfworker.settings import Settings


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_job_waits_for_the_session_whose_job_is_being_answered(is_answered: bool) -> None:
    """The web side reads an answer before the worker knows that Redis has it, and may send the next job at once."""
    sessions: Sessions[PartyProcess] = Sessions(Settings(concurrency=2, session_jobs=2), lambda: False)
    session: Session[PartyProcess] = Session(b"key")
    taken: list[Session[PartyProcess] | None] = []

    async def take(key: bytes) -> None:
        taken.append(await sessions.take(key))

    sessions.began()
    async with anyio.create_task_group() as tasks:
        with sessions.answering(session):
            tasks.start_soon(take, b"key")
            tasks.start_soon(take, b"another key")
            await wait_all_tasks_blocked()
            assert taken == [None]
        sessions.ended()
        if is_answered:
            assert sessions.offer(session)
            await wait_all_tasks_blocked()
            session.is_fit = True
            session.renewed.set()
    assert taken == [None, session if is_answered else None]
