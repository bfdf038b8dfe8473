"""``block-predictor``: serve what-ifs about a vLLM server, or about several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from block.access import check_exposure
from block.config import PredictorConfig, load_config
from block.errors import BlockError, ConfigError
from block.http.run import Binding, run_together
from block.http.server import Service
from block.http.tls import Certificate
from block.log_format import LogFormat, set_up_log
from predictor.app import PredictorApp, create_app
from predictor.shared_app import SharedApp

GRACE_S = 1
"""After SIGTERM. Every answer is given at once, so hardly any is open then."""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: block-predictor --config run/local/predictor-0.yaml")
def serve(
    config: Annotated[
        list[Path],
        typer.Option(
            help="YAML file with one predictor's settings. Several share this process; those with the same "
            "port share it, each at /of/INSTANCE."
        ),
    ],
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Listen beyond this machine even without keys.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Lines to read, or one JSON object a line.")] = "text",
) -> None:
    """Mirror vLLM servers through their state feeds and answer what-ifs about them."""
    set_up_log("INFO", log_format)
    try:
        # Threads of the linear algebra wait for one another busily, on cores that others need.
        threadpool_limits(1)
        settings = [_settings(file, guarded=not allow_anyone) for file in config]
        run_together(_services(dict(zip(config, settings, strict=True))), GRACE_S)
    except BlockError as error:
        typer.echo(f"block-predictor: {error}", err=True)
        raise typer.Exit(1) from error


def _settings(file: Path, *, guarded: bool) -> PredictorConfig:
    """As ``file`` says; raises ConfigError. ``guarded``: not beyond this machine without keys."""
    settings = load_config(file, PredictorConfig)
    if guarded:
        check_exposure(settings.host, settings.settings.access, str(file))
    return settings


def _services(configs: Mapping[Path, PredictorConfig]) -> list[tuple[Service, Binding]]:
    """One for each port. Raises ConfigError."""
    ports: dict[tuple[str, int], dict[Path, PredictorConfig]] = {}
    for file, config in configs.items():
        ports.setdefault((config.host, config.port), {})[file] = config
    return [(_service(shared), _binding(shared)) for shared in ports.values()]


def _service(configs: Mapping[Path, PredictorConfig]) -> Service:
    if len(configs) == 1:
        (alone,) = configs.values()
        return create_app(alone)
    apps: dict[str, PredictorApp] = {}
    for file, config in configs.items():
        if config.instance in apps:
            raise ConfigError(
                f"{file}: instance = {config.instance!r}: another predictor of this port is of it"
            )
        apps[config.instance] = create_app(config)
    return SharedApp(apps)


def _binding(configs: Mapping[Path, PredictorConfig]) -> Binding:
    (file, config), *others = configs.items()
    tls = config.settings.tls
    for other, differing in others:
        if differing.settings.tls != tls:
            raise ConfigError(f"{other}: settings.tls: differs from that of {file}, which has the same port")
    certificate = None if tls is None else Certificate(tls, f"{file}: settings.tls")
    return Binding(config.host, config.port, certificate=certificate)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
