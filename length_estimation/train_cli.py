"""``block-length train``: one command for each kind of estimator that learns from data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from length_estimation.command_options import Data, Tokenizer, progress_bar

train = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: block-length train features --data DIR --out models/lengths",
    help="Train an estimator and save it with its card. The last line is the card as JSON.",
)

Out = Annotated[Path, typer.Option(help="Folder for the model; a model that is there is replaced.")]
Seed = Annotated[int, typer.Option(help="Of the split, the weights and the order.")]


@train.command(epilog="Example: block-length train features --data DIR --out models/lengths")
def features(data: Data, out: Out, seed: Seed = 0, tokenizer: Tokenizer = None) -> None:
    """Trees on lexical features: minutes on a CPU, a tenth of a millisecond for an estimate."""
    from length_estimation.train_command import TrainCommand

    with progress_bar() as progress:
        card = TrainCommand(data, out, seed, tokenizer).features(progress)
    print(card, flush=True)


@train.command(
    epilog="Example: block-length train roberta --data DIR --out models/lengths --encoder roberta-base"
)
def roberta(
    data: Data,
    out: Out,
    seed: Seed = 0,
    tokenizer: Tokenizer = None,
    encoder: Annotated[
        str, typer.Option(help="Folder or hub id; tiny, small, base: random weights, made here.")
    ] = "roberta-base",
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without gain before it stops.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-5,
    most_tokens: Annotated[int, typer.Option(min=16, help="Of a prompt that are read.")] = 256,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Keep the encoder's first so many layers; all by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 (mixed), which auto takes on a GPU.")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU.")] = 1,
) -> None:
    """A transformers encoder with quantile heads.

    An interrupted run goes on from its last epoch when the same command is given again.
    """
    from length_estimation.roberta_training import RobertaOptions
    from length_estimation.train_command import TrainCommand

    options = RobertaOptions(
        encoder=encoder,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        most_tokens=most_tokens,
        patience=patience,
        seed=seed,
        device=device,
        precision=precision,
        layers=layers,
        threads=threads,
    )
    with progress_bar() as progress:
        card = TrainCommand(data, out, seed, tokenizer).roberta(progress, options)
    print(card, flush=True)
