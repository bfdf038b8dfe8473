"""``block-predictor``: serve what-ifs about one vLLM server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from block.config import PredictorConfig, load_config
from block.errors import BlockError
from block.http.run import Binding, run
from predictor.app import create_app

GRACE_S = 1
"""After SIGTERM. Every answer is given at once, so hardly any is open then."""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: block-predictor --config run/local/predictor-0.yaml")
def serve(
    config: Annotated[Path, typer.Option(help="YAML file with one predictor's settings.")],
) -> None:
    """Mirror one vLLM server through its state feed and answer what-ifs about it."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_config(config, PredictorConfig)
        run(lambda _: create_app(settings), Binding(settings.host, settings.port), GRACE_S)
    except BlockError as error:
        typer.echo(f"block-predictor: {error}", err=True)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
