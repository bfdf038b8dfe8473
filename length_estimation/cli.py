"""``block-length``: collect, train, judge, serve and export response-length estimators.

Every command is thin: it reads its arguments and imports what does the work.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from block.errors import BlockError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    epilog="Example: block-length evaluate --data DIR, a folder with data.jsonl",
)

Data = Annotated[
    list[Path], typer.Option("--data", help="Folder with data.jsonl, or a .json or .jsonl file; repeatable.")
]
Tokenizer = Annotated[
    Path | None, typer.Option(help="tokenizer.json to count responses with; bytes / 4 without one.")
]


@app.callback()
def block_length() -> None:
    """Response lengths: collect, train, judge, serve, export."""


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@app.command(epilog="Example: block-length evaluate --data DIR --figure lengths.png")
def evaluate(
    data: Data,
    estimators: Annotated[
        str, typer.Option(help="Comma-separated: constant, max_tokens, history, features, roberta.")
    ] = "constant,max_tokens,history,features",
    folds: Annotated[int, typer.Option(min=2, help="Parts that the prompts are split into.")] = 5,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Parts to judge, each by what the others teach; all by default.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples; 0: no intervals.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the split and of training.")] = 0,
    encoder: Annotated[
        str | None, typer.Option(help="For roberta: an encoder's folder or hub id to train from.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="For roberta.")] = 4,
    tokenizer: Tokenizer = None,
    figure: Annotated[Path | None, typer.Option(help="Draw calibration and errors by length.")] = None,
) -> None:
    """Train on one part of the prompts, judge on the other, for each part in turn.

    Prompts of one conversation and duplicate prompts never straddle the split. The last line is JSON.
    """
    from length_estimation.evaluate_command import EvaluateCommand

    command = EvaluateCommand(tuple(estimators.split(",")), folds, rounds, resamples, seed, encoder, epochs)
    console = Console(stderr=True)
    with _progress(console) as progress:
        evaluations = command.run(data, tokenizer, progress)
    command.show(evaluations, Console(width=150), figure)
    print(json.dumps(command.summary(evaluations)), flush=True)


def main() -> None:
    """Run a command; an error of ours is one line and exit status 1."""
    try:
        app()
    except BlockError as error:
        print(f"block-length: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
