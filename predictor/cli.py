"""``block-predictor``: serve what-ifs about one vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from block.config import PredictorConfig, load_config
from block.errors import BlockError
from predictor.app import create_app

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: block-predictor --config run/local/predictor-0.yaml")
def serve(
    config: Annotated[Path, typer.Option(help="YAML file with one predictor's settings.")],
) -> None:
    """Mirror one vLLM server through its state feed and answer what-ifs about it."""
    try:
        settings = load_config(config, PredictorConfig)
        service = create_app(settings)
    except BlockError as error:
        typer.echo(f"block-predictor: {error}", err=True)
        raise typer.Exit(1) from error
    uvicorn.run(
        service,
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="info",
    )


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
