"""``block-predictor``: serve what-ifs about one vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from block.access import check_exposure
from block.config import PredictorConfig, load_config
from block.errors import BlockError
from block.http.run import Binding, run
from block.http.tls import Certificate
from block.log_format import LogFormat, set_up_log
from predictor.app import create_app

GRACE_S = 1
"""After SIGTERM. Every answer is given at once, so hardly any is open then."""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: block-predictor --config run/local/predictor-0.yaml")
def serve(
    config: Annotated[Path, typer.Option(help="YAML file with one predictor's settings.")],
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Listen beyond this machine even without keys.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Lines to read, or one JSON object a line.")] = "text",
) -> None:
    """Mirror one vLLM server through its state feed and answer what-ifs about it."""
    set_up_log("INFO", log_format)
    try:
        settings = load_config(config, PredictorConfig)
        access, tls = settings.settings.access, settings.settings.tls
        if not allow_anyone:
            check_exposure(settings.host, access, str(config))
        certificate = None if tls is None else Certificate(tls, f"{config}: settings.tls")
        binding = Binding(settings.host, settings.port, certificate=certificate)
        # Threads of the linear algebra wait for one another busily, on cores that others need.
        threadpool_limits(1)
        run(lambda _: create_app(settings), binding, GRACE_S)
    except BlockError as error:
        typer.echo(f"block-predictor: {error}", err=True)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
