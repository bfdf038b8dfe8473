"""When a server process is ready: its health URL answers 200 before a deadline, or it has ended."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import replace

import aiohttp
import msgspec
import psutil

from block.errors import DeployError
from deploy.log_file import last_meaningful_line
from deploy.plan import ProcessPlan
from deploy.process import ManagedProcess
from global_scheduler.pages import HealthReport

_POLL_S = 0.2
_POLL_TIMEOUT_S = 2.0


async def wait_until_ready(process: ManagedProcess, session: aiohttp.ClientSession) -> None:
    """Return once the process is ready; raises DeployError when it ends first. Cancel at a deadline."""
    while not await _is_ready(process.plan, session):
        # Between two polls, the process' own end is what may happen.
        await asyncio.wait([process.ended], timeout=_POLL_S)
        if process.ended.done():
            raise DeployError(early_end(process.plan, process.ended.result()))


def early_end(plan: ProcessPlan, code: int) -> str:
    """One line on a process that ended before the cluster was ready."""
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return f"{plan.name} ended at start with {how}; {_evidence(plan)}"


def late(plan: ProcessPlan, timeout_s: float) -> str:
    """One line on a process that is not ready in time."""
    needs = f" (it also needs {plan.needs})" if plan.needs else ""
    return f"{plan.name} was not ready within {timeout_s:g} s{needs}; {_evidence(plan)}"


def check_ports(plans: tuple[ProcessPlan, ...]) -> None:
    """Raise DeployError when a port that the cluster needs is taken, saying by whom, or the host is wrong."""
    for plan in plans:
        try:
            with socket.socket() as probe:
                # As the servers do it: a port in TIME_WAIT is free to listen on.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((plan.host, plan.port))
        except OSError as error:
            raise DeployError(_refused(plan, error)) from error


def _refused(plan: ProcessPlan, error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"host {plan.host!r} is not an address of this machine: {error.strerror}; "
            "choose another with --set host=ADDRESS"
        )
    return (
        f"port {plan.port} for {plan.name} cannot be used: {error.strerror}{_holder(plan.port)}; "
        f"free it or choose another with --set {plan.role}_port=PORT"
    )


async def _is_ready(plan: ProcessPlan, session: aiohttp.ClientSession) -> bool:
    needed = replace(plan, health_url=plan.needs, ready_on=frozenset({200}))
    return await _answers(plan, session) and (not plan.needs or await _answers(needed, session))


async def _answers(plan: ProcessPlan, session: aiohttp.ClientSession) -> bool:
    try:
        patience = aiohttp.ClientTimeout(total=_POLL_TIMEOUT_S)
        # Whether it is up is all that is asked; whose certificate it has is its clients' business.
        async with session.get(plan.health_url, timeout=patience, ssl=False) as response:
            if response.status not in plan.ready_on:
                return False
            return plan.role != "scheduler" or 503 in plan.ready_on or _sees_all(await response.read())
    except (aiohttp.ClientError, TimeoutError):
        return False


def _sees_all(page: bytes) -> bool:
    """Whether a scheduler has found every instance; what it routes before goes to those it has found."""
    try:
        return all(one.healthy for one in msgspec.json.decode(page, type=HealthReport).instances)
    except msgspec.DecodeError:
        return True  # not our page: its status is all there is


def _evidence(plan: ProcessPlan) -> str:
    line = last_meaningful_line(plan.log)
    said = f"it said: {line}" if line else "it said nothing"
    return f"{said} (log: {plan.log})"


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            if connection.laddr and connection.laddr.port == port:
                return f", held by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return ""  # A hint only; it must not hide the finding itself.
    return ""
