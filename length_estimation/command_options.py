"""Options that several ``block-length`` commands have, and the progress that they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Data = Annotated[
    list[Path],
    typer.Option("--data", help="Folder with data.jsonl, or a .json, .jsonl or .csv file; repeatable."),
]
Tokenizer = Annotated[
    Path | None, typer.Option(help="tokenizer.json to count tokens with; bytes / 4 without one.")
]


def progress_bar() -> Progress:
    """On the error stream, gone when the work is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
