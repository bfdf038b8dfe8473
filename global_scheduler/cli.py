"""``block-scheduler``: runs the global scheduler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from block.config import SchedulerConfig, load_config
from block.errors import BlockError
from block.http.run import Binding, run
from global_scheduler.app import create_app
from global_scheduler.settings_check import check_settings

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="YAML file with the scheduler's configuration.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes that share the port; else as the configuration says."),
    ] = None,
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
        binding = Binding(settings.host, settings.port)
        run(
            lambda worker: create_app(settings, worker),
            binding,
            settings.settings.shutdown_grace_s,
            workers or settings.settings.workers,
        )
    except BlockError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
