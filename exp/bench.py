"""``block-exp bench``: how fast the parts are, each with a table and a last line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exp.cli import main

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, epilog="Example: block-exp bench what-if --calls 5000"
)


@app.callback()
def bench() -> None:
    """Measure how fast the parts are."""


@app.command("what-if", epilog="Example: block-exp bench what-if --vidur ../vidur")
def what_if(
    calls: Annotated[int, typer.Option(min=20, help="Timed what-ifs of the main case.")] = 2000,
    vidur: Annotated[Path | None, typer.Option(help="A Vidur checkout to measure beside.")] = None,
) -> None:
    """Time what-ifs, whole decisions, plain simulation and a predictor's start, on one core.

    Times are CPU time of the calling thread; wall-clock percentiles are in the JSON beside them. The
    last line is JSON.
    """
    from exp.bench_what_if import WhatIfBench
    from exp.vidur_what_if import VidurWhatIf

    beside = None if vidur is None else VidurWhatIf(vidur)
    console = Console()
    console.print("warming up (compiles on the first run after an update: 20 s)", highlight=False)
    result = WhatIfBench(calls, beside).run(console)
    console.print(result.table())
    for line in result.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print(json.dumps(result.summary()), flush=True)


if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
