"""``block-scheduler``: runs the global scheduler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from starlette.types import ASGIApp

from block.config import SchedulerConfig, load_config
from block.errors import BlockError
from global_scheduler.app import create_app
from global_scheduler.settings_check import check_settings

GRACE_S = 5
"""After SIGTERM, how long running requests may take to finish; then they end with an error. Less than a
launcher waits before it kills."""
CLIENT_KEEP_ALIVE_S = 75
"""Longer than common clients keep idle connections, so that it is they who close."""

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="YAML file with the scheduler's configuration.")],
    log_level: Annotated[
        str, typer.Option(help="debug, info (a line per request), warning or error.")
    ] = "info",
) -> None:
    """Route OpenAI requests over a fleet of vLLM servers.

    Example: block-scheduler --config scheduler.yaml, where scheduler.yaml holds

      instances: [{name: a, url: "http://127.0.0.1:8100", predictor_url: "http://127.0.0.1:8200"}]

      settings: {policy: block}
    """
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_config(config, SchedulerConfig)
        check_settings(settings.settings, lambda field: f"{config}: settings.{field}")
        service = create_app(settings)
    except BlockError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    _run(service, settings)


def _run(service: ASGIApp, config: SchedulerConfig) -> None:
    uvicorn.run(
        service,
        host=config.host,
        port=config.port,
        http="httptools",
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,  # the instance's own Server and Date pass through
        date_header=False,
        timeout_keep_alive=CLIENT_KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
