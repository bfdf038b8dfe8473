"""Whether a process that runs still answers; one that does not, time and again, is ended by force.

Its health URL is asked. Any status is an answer: what it says of itself is its clients' business. Knows
nothing of what is done about its end.
"""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from block.operation import HangSettings
from deploy.process import ManagedProcess

_log = logging.getLogger(__name__)


async def end_of(process: ManagedProcess) -> int:
    """Its exit code, once nothing of it is left; it is watched meanwhile, if its plan says when it hangs."""
    hangs = process.plan.hangs
    watch = None if hangs is None else asyncio.create_task(_strike_when_hung(process, hangs))
    try:
        return await asyncio.shield(process.ended)
    finally:
        if watch is not None:
            watch.cancel()


async def _strike_when_hung(process: ManagedProcess, hangs: HangSettings) -> None:
    missed = 0
    # A connection for each question: one that rests may be closed just then, which says nothing.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while missed < hangs.misses:
            await asyncio.sleep(hangs.interval_s)
            answers = await _answers(process.plan.health_url, session, hangs.patience_s)
            missed = 0 if answers else missed + 1
    plan = process.plan
    _log.error(
        "%s hangs: %d times in a row no answer from %s within %g s; it is ended",
        *(plan.name, missed, plan.health_url, hangs.patience_s),
    )
    process.strike()


async def _answers(url: str, session: aiohttp.ClientSession, patience_s: float) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=patience_s), ssl=False):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False
