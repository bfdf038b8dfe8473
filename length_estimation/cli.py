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

from block.errors import BlockError, ConfigError
from length_estimation.command_options import Data, Tokenizer, progress_bar
from length_estimation.train_cli import train

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    epilog="Example: block-length evaluate --data DIR, a folder with data.jsonl",
)


@app.callback()
def block_length() -> None:
    """Response lengths: collect, train, judge, serve, export."""


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
    learning_rate: Annotated[float, typer.Option(help="For roberta.")] = 1e-5,
    tokenizer: Tokenizer = None,
    figure: Annotated[Path | None, typer.Option(help="Draw calibration and errors by length.")] = None,
) -> None:
    """Train on one part of the prompts, judge on the other, for each part in turn.

    Prompts of one conversation and duplicate prompts never straddle the split. The last line is JSON.
    """
    from length_estimation.evaluate_command import EvaluateCommand

    names = tuple(name.strip() for name in estimators.split(","))
    command = EvaluateCommand(names, folds, rounds, resamples, seed, encoder, epochs, learning_rate, figure)
    with progress_bar() as progress:
        evaluations = command.run(data, tokenizer, progress)
    command.show(evaluations, Console(width=150))
    print(json.dumps(command.summary(evaluations)), flush=True)


app.add_typer(train, name="train")


@app.command(epilog="Example: block-length export --model models/lengths --int8")
def export(
    model: Annotated[Path, typer.Option(help="Folder of a trained roberta.")],
    int8: Annotated[
        bool, typer.Option(help="8-bit weights: a quarter of the size, faster, a little off.")
    ] = False,
    most_tokens: Annotated[
        int | None, typer.Option(min=8, help="Of a prompt that are read from now on: time grows with them.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts and answers: say what the new form loses on them (the held-out seventh)."),
    ] = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Add an ONNX form to a roberta model, for fast estimates on a CPU without torch."""
    from length_estimation.export import export as run

    done = run(model, int8=int8, most_tokens=most_tokens, data=data or (), tokenizer=tokenizer)
    scores = {} if done.compared is None else done.compared
    print(
        json.dumps(
            {"model": done.card.model, "bytes": done.size_bytes, "worst_log_tokens": done.worst} | scores
        )
    )


@app.command(
    epilog="Example: block-length tag --model models/lengths --data prompts.jsonl --out tagged.jsonl"
)
def tag(
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="JSON lines: the rows with predicted_* fields.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of rows that have none.")] = 4096,
    tokenizer: Tokenizer = None,
) -> None:
    """Add predicted lengths to the rows of a data set, as lists where a row is a conversation."""
    from length_estimation.tag import tag as run

    with progress_bar() as progress:
        task = progress.add_task("tag", total=None)
        rows = run(
            model, data, out, max_tokens, tokenizer, lambda done: progress.update(task, completed=done)
        )
    print(json.dumps({"rows": rows, "out": str(out)}))


@app.command(
    epilog="Example: block-length sample --data sharegpt.json --url http://127.0.0.1:8000 --out d.jsonl"
)
def sample(
    data: Data,
    out: Annotated[Path, typer.Option(help="JSON lines; rows that are there already are not asked again.")],
    url: Annotated[
        str | None,
        typer.Option(help="OpenAI endpoint to send the prompts to; without one, recorded answers count."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model to ask for.")] = "",
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the API key; by default OPENAI_API_KEY, if it is set."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Most prompts, drawn at random; all by default.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of each answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling.")] = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    tokenizer: Tokenizer = None,
) -> None:
    """Collect prompts with the lengths of their answers, recorded or from a running endpoint."""
    from block.access import client_key
    from length_estimation.sample import Endpoint
    from length_estimation.sample import sample as run

    key = None if url is None else client_key(key_env, "--key-env")
    endpoint = None if url is None else Endpoint(url, model, max_tokens, temperature, concurrency, key)
    with progress_bar() as progress:
        print(json.dumps(run(data, out, endpoint, count, seed, tokenizer, progress)))


@app.command(epilog="Example: block-length serve --model models/lengths --port 8300")
def serve(
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8300,
    batch: Annotated[int, typer.Option(min=1, help="Largest batch.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Cores that compute a batch of a roberta.")] = 1,
    tokenizer: Tokenizer = None,
    allow_anyone: Annotated[
        bool,
        typer.Option("--allow-anyone", help="Listen beyond this machine: anybody who gets there may ask."),
    ] = False,
) -> None:
    """Answer POST /v1/estimate; requests that come together are computed together."""
    import uvicorn

    from block.access import is_loopback
    from length_estimation.service import create_app

    if not allow_anyone and not is_loopback(host):
        raise ConfigError(f"--host {host}: others could use it, and it knows no keys; say --allow-anyone")
    service = create_app(model, batch, tokenizer, threads)
    uvicorn.run(service, host=host, port=port, http="httptools", loop="uvloop", access_log=False)


@app.command(epilog="Example: block-length bench --model models/lengths")
def bench(
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Data set with prompts; words drawn at random without one.")
    ] = None,
    calls: Annotated[int, typer.Option(min=10, help="Timed estimates of each size.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Cores that compute a roberta.")] = 1,
) -> None:
    """Time a trained model, on one core by default: single prompts of several sizes, and batches of 32."""
    from length_estimation.bench import bench as run

    print(json.dumps(run(model, prompts, calls, threads)), flush=True)


def main() -> None:
    """Run a command; an error of ours is one line and exit status 1."""
    try:
        app()
    except BlockError as error:
        print(f"block-length: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
