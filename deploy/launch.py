"""A launcher: the process that holds a cluster, in the foreground or in the background."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from block.errors import DeployError
from deploy.local import LocalCluster
from deploy.log_file import read_tail
from deploy.plan import ClusterPlan
from deploy.run_folder import RunFolder
from deploy.show import StartProgress, welcome

ResultT = TypeVar("ResultT")

_POLL_S = 0.1


def run_until_signalled(work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """Run ``work`` in a new event loop; Ctrl-C, SIGTERM and SIGHUP cancel it once, in order.

    Returns its result, or None when a signal ended it. Further signals do not disturb the clean-up.
    """
    return asyncio.run(_cancelled_by_signals(work))


async def stay_up(plan: ClusterPlan, console: Console) -> None:
    """Bring a cluster up, say how to use it, and hold it until cancelled."""
    with StartProgress(console) as progress:
        cluster = LocalCluster(plan, on_change=progress.show)
        await cluster.start()
    try:
        print(welcome(plan), flush=True)
        await asyncio.Event().wait()
    finally:
        console.print(f"Taking cluster {plan.name} down ...")
        await cluster.stop()


def launch_argv(file: Path, settings: list[str], instances: int | None) -> list[str]:
    """The command of a launcher in the foreground."""
    argv = [sys.executable, "-m", "deploy.cli", "up", str(file)]
    for setting in settings:
        argv += ["--set", setting]
    return argv if instances is None else [*argv, "--instances", str(instances)]


def start_in_background(plan: ClusterPlan, argv: list[str], console: Console) -> None:
    """Start a launcher that outlives this process; return when its cluster is ready.

    Raises DeployError with the launcher's own words when it fails.
    """
    folder = RunFolder(plan.folder)
    if folder.read_state() is not None:
        raise folder.already_up()
    folder.create()
    # A name of its own until it is known whose cluster this is: another launcher may be starting.
    log = folder.path / f"launcher-{os.getpid()}.log"
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await_ready(folder, launcher, log, console)
    finally:
        _file_log(folder, launcher, log)
    print(
        f"cluster {plan.name} is up (launcher pid {launcher.pid}); `{folder.end_command}` ends it\n"
        f"OPENAI_BASE_URL={plan.openai_base_url}"
    )


def _await_ready(folder: RunFolder, launcher: subprocess.Popen[bytes], log: Path, console: Console) -> None:
    with StartProgress(console) as progress:
        while launcher.poll() is None:
            state = folder.read_state()
            if state and state.launcher_pid == launcher.pid:
                progress.show(state)
                if state.ready:
                    return
            time.sleep(_POLL_S)
    said = [line for line in read_tail(log).splitlines() if line.strip()]
    raise DeployError(
        said[-1].removeprefix("block-deploy: ") if said else f"the launcher ended with {launcher.returncode}"
    )


def _file_log(folder: RunFolder, launcher: subprocess.Popen[bytes], log: Path) -> None:
    """Make ``log`` the cluster's launcher.log, unless the cluster is another launcher's."""
    state = folder.read_state()
    if state is None or state.launcher_pid == launcher.pid:
        log.replace(folder.path / "launcher.log")
    else:
        log.unlink()


async def _cancelled_by_signals(work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signalled.set)
    waiting = asyncio.create_task(signalled.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None
