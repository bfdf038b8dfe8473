"""``block-exp data``: public traces, fetched with their checksums, and which of them are at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from block.errors import DataError
from exp.cli import main
from exp.public_set import SETS, PublicSet, PublicSets
from exp.workload.catalogue import FETCHED

DATA = Path("../shared/data")

app = typer.Typer(add_completion=False, rich_markup_mode=None, epilog="Example: block-exp data fetch azure")


@app.callback()
def data() -> None:
    """Public traces for the experiments."""


@app.command("list", epilog="Example: block-exp data list")
def list_sets(
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = DATA,
    out: Annotated[Path, typer.Option(help="Where fetched files are.")] = FETCHED,
    sets: Annotated[Path, typer.Option(help="What is known.")] = SETS,
) -> None:
    """Show what can be fetched, and what is there already. The last line is JSON: set to path, or null."""
    table = Table("set", "here", "licence", "what")
    found: dict[str, str | None] = {}
    for name, one in PublicSets.load(sets).sets.items():
        folder = next((folder for folder in (data, out) if one.is_at(folder)), None)
        found[name] = None if folder is None else str(folder / one.file)
        table.add_row(name, found[name] or "no", one.licence, one.about)
    Console().print(table)
    print(json.dumps(found), flush=True)


@app.command("fetch", epilog="Example: block-exp data fetch azure burstgpt")
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Sets; all if none is named.")] = None,
    out: Annotated[Path, typer.Option(help="Where files go.")] = FETCHED,
    sets: Annotated[Path, typer.Option(help="What is known.")] = SETS,
    again: Annotated[bool, typer.Option("--again", help="Fetch what is there already, too.")] = False,
) -> None:
    """Download public traces and check their sums; what is there already is left alone.

    The last line is JSON: set to path, or null where it failed. Exits with 1 if one failed.
    """
    console = Console(stderr=True)
    fetched: dict[str, str | None] = {}
    for name, one in PublicSets.load(sets).chosen(names or []).items():
        if one.is_at(out) and not again:
            fetched[name] = str(out / one.file)
            continue
        try:
            fetched[name] = str(_fetch(name, one, out, console))
        except DataError as error:
            console.print(f"{name}: {error}", markup=False, highlight=False, soft_wrap=True)
            fetched[name] = None
    print(json.dumps(fetched), flush=True)
    raise typer.Exit(1 if None in fetched.values() else 0)


def _fetch(name: str, one: PublicSet, out: Path, console: Console) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=one.bytes)
        return one.fetch(out, lambda count: progress.advance(task, count))


if __name__ == "__main__":
    main(["data", *sys.argv[1:]])
