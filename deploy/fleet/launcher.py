"""Holds one group on its host: reads what its folder says, brings it up, and stays until told to end."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from block.errors import BlockError
from deploy.fleet.group_folder import group_of, read_started
from deploy.fleet.group_plan import plan_group
from deploy.launch import run_until_signalled
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan

app = typer.Typer(add_completion=False)


async def hold(plan: ClusterPlan) -> None:
    """Bring a group up and keep it until cancelled."""
    async with LocalCluster(plan):
        await asyncio.Event().wait()


@app.command()
def launch(
    home: Annotated[Path, typer.Argument(help="Folder of the group, with its group.json.")],
    root: Annotated[Path, typer.Option(help="Where relative paths of its settings begin.")],
) -> None:
    """Run one group of a fleet in the foreground."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run_until_signalled(hold(plan_group(group_of(read_started(home)), home, root)))
    except BlockError as error:
        print(f"block-deploy: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
