"""``block-deploy``: a fleet from one file, its state, its logs, its end."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer
from rich.console import Console

from block.errors import BlockError
from deploy.cluster_file import load_plan, load_settings
from deploy.fleet import cli as fleet
from deploy.fleet.commands import find_fleets
from deploy.fleet.record import FleetFolder
from deploy.fleet.secret import read_secrets
from deploy.launch import launch_argv, run_until_signalled, start_in_background, stay_up
from deploy.log_file import follow, read_tail
from deploy.run_folder import RunFolder, find_run_folders
from deploy.show import state_table
from deploy.teardown import take_down

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Bring a fleet of vLLM servers with its predictors and scheduler up and down.",
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
)

_console = Console()
_errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

RunDir = Annotated[Path, typer.Option(help="Folder with one folder per cluster.")]
ClusterName = Annotated[str | None, typer.Argument(help="Cluster; may be left out when there is only one.")]


@app.command(
    epilog="Example: block-deploy up config/cluster/local.yaml --instances 2 --set engine.max_num_seqs=24"
)
def up(
    file: Annotated[Path, typer.Argument(help="Cluster file (YAML).")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, as FIELD=VALUE.")] = None,
    instances: Annotated[int | None, typer.Option(help="How many vLLM servers.")] = None,
    detach: Annotated[bool, typer.Option(help="Leave it running in the background.")] = False,
    on_failure: Annotated[
        Literal["keep", "rollback"], typer.Option(help="Of a fleet: keep what has started, or end it again.")
    ] = "keep",
) -> None:
    """Start a cluster and keep it up until Ctrl-C; or, with a backend, bring a fleet to what the file says.

    A fleet stays up until `down`; what runs there already is left alone. Exits with 1 if anything fails.
    """
    config = load_settings(file, settings or [], instances)
    if config.backend is not None:
        fleet.up(file, settings or [], instances, roll_back=on_failure == "rollback")
        return
    os.environ.update(read_secrets(config.secrets))
    plan = load_plan(file, settings or [], instances)
    if detach:
        start_in_background(plan, launch_argv(file, settings or [], instances), _console)
    else:
        run_until_signalled(stay_up(plan, _console))


@app.command(epilog="Example: block-deploy status local --json")
def status(
    name: ClusterName = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    run_dir: RunDir = Path("run"),
) -> None:
    """Show what runs. Exits with 1 when the named cluster is not up, or one of its processes died."""
    reports = [fleet.status(folder) for folder in _fleets(run_dir, name)]
    folders = [] if name and reports else _folders(run_dir, name)
    states = [state for folder in folders if (state := folder.read_state())]
    if as_json:
        print(msgspec.json.encode([*reports, *states]).decode())
    elif not states and not reports:
        print(_nothing_up(run_dir, name))
    else:
        for report in reports:
            fleet.show_status(report)
        for state in states:
            _console.print(state_table(state))
    if (name and not states and not reports) or any(state.ended for state in states):
        raise typer.Exit(1)
    if not all(report.all_ready for report in reports):
        raise typer.Exit(1)


@app.command(epilog="Example: block-deploy logs local scheduler -f")
def logs(
    name: Annotated[str, typer.Argument(help="Cluster.")],
    process: Annotated[str | None, typer.Argument(help="Process; all when left out.")] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the logs grow.")] = False,
    run_dir: RunDir = Path("run"),
) -> None:
    """Show the logs of a cluster, also of one that has ended."""
    for one in _fleets(run_dir, name):
        fleet.logs(one, process, following=following)
        return
    [folder] = _folders(run_dir, name)
    paths = folder.log_files()
    chosen = [path for path in paths if process in (None, path.stem)]
    if not chosen:
        known = ", ".join(path.stem for path in paths) or "none"
        _fail(f"no log of {process or 'any process'} in {folder.logs}; there: {known}")
    if following:
        for stem, line in follow(chosen, lambda: folder.read_state() is not None):
            print(f"{stem}: {line}", flush=True)
    else:
        for path in chosen:
            prefix = "" if process else f"{path.stem}: "
            for line in read_tail(path).splitlines():
                print(prefix + line)


@app.command(epilog="Example: block-deploy down local")
def down(
    name: ClusterName = None,
    run_dir: RunDir = Path("run"),
    forget: Annotated[
        bool, typer.Option(help="Of a fleet: give up hosts that cannot be reached, and what runs there.")
    ] = False,
) -> None:
    """End a cluster and everything that belongs to it; one that has ended already is not an error."""
    fleets = _fleets(run_dir, name)
    folders = [] if name and fleets else [each for each in _folders(run_dir, name) if each.read_state()]
    up_names = [*(one.name for one in fleets), *(one.path.name for one in folders)]
    if name is None and len(up_names) > 1:
        _fail(f"several clusters are up: {', '.join(up_names)}; name one")
    for one in fleets:
        fleet.down(one, forget=forget)
    for folder in folders:
        take_down(folder)
        print(f"cluster {folder.path.name} is down")
    if not folders and not fleets:
        print(_nothing_up(run_dir, name))


for _verb, _example in (
    (fleet.plan, "plan config/cluster/ssh.yaml --instances 6"),
    (fleet.install, "install config/cluster/ssh.yaml"),
    (fleet.scale, "scale 6"),
    (fleet.drain, "drain instance-2"),
    (fleet.provision, "provision config/cluster/ssh.yaml --dry-run"),
    (fleet.restart, "restart instance-2"),
    (fleet.doctor, "doctor config/cluster/ssh.yaml"),
    (fleet.init, "init lab.yaml --name lab --backend ssh --host me@gpu1 --host me@gpu2 --gpus 1"),
    (fleet.import_cloudlab, "import-cloudlab manifest.xml --username me"),
):
    app.command(epilog=f"Example: block-deploy {_example}")(_verb)


def main() -> None:
    """Run the command line; an error of ours is one line and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        app()
    except BlockError as error:
        _fail(str(error))


def _fleets(run_dir: Path, name: str | None) -> list[FleetFolder]:
    return [folder for folder in find_fleets(run_dir) if name in {None, folder.name}]


def _folders(run_dir: Path, name: str | None) -> list[RunFolder]:
    """Where to look; an error when the named cluster has never run there."""
    if name is None:
        return find_run_folders(run_dir)
    folder = RunFolder(run_dir / name)
    if not folder.was_used:
        _fail(f"no cluster {name} has run in {run_dir.absolute()}; name its folder with --run-dir FOLDER")
    return [folder]


def _nothing_up(run_dir: Path, name: str | None) -> str:
    what = f"cluster {name} is not up" if name else "no cluster is up"
    return f"{what} in {run_dir.absolute()} (another folder: --run-dir FOLDER)"


def _fail(message: str) -> NoReturn:
    _errors.print(f"block-deploy: {message}")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
