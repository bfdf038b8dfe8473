"""The verbs of ``block-deploy`` that concern fleets."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import typer
from rich.console import Console

from block.errors import ConfigError, DeployError
from block.fleet_config import FleetConfig, HostConfig
from deploy.cluster_file import check_exposure, load_plan, load_settings, project_of
from deploy.fleet import commands
from deploy.fleet.agent_messages import Logs
from deploy.fleet.cloudlab import read_manifest
from deploy.fleet.doctor import examine
from deploy.fleet.new_file import Draft, backend_of, render, room_on, write_new
from deploy.fleet.record import FleetFolder
from deploy.fleet.report import FleetReport, report_on
from deploy.fleet.secret import predictor_key
from deploy.fleet.session import Prepared, opened, prepare
from deploy.fleet.show import findings_table, plan_table, report_table
from deploy.launch import run_until_signalled

console = Console()
ResultT = TypeVar("ResultT")

_FOLLOW_S = 1.0
_TAIL_BYTES = 262_144

File = Annotated[Path, typer.Argument(help="Cluster file (YAML).")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override, as FIELD=VALUE.")]
Count = Annotated[int | None, typer.Option(help="How many vLLM servers.")]
FleetName = Annotated[str | None, typer.Option(help="Fleet; may be left out when there is only one.")]
RunDir = Annotated[Path, typer.Option(help="Folder with one folder per cluster.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a verb; Ctrl-C leaves things as they are and exits with 130."""
    ended = False

    async def finish() -> ResultT:
        nonlocal ended
        result = await work
        ended = True
        return result

    result = run_until_signalled(finish())
    if not ended:
        raise typer.Exit(130)
    return result  # type: ignore[return-value]  # None only where the verb returns it.


def plan(file: File, settings: Sets = None, instances: Count = None, as_json: AsJson = False) -> None:
    """Print what would run where. Touches no host."""
    config = load_settings(file, settings or [], instances)
    if config.backend is None:
        for process in load_plan(file, settings or [], instances).processes:
            print(f"{process.name}: {' '.join(process.argv)}")
        return
    groups = prepare(config, project_of(file)).record.groups
    if as_json:
        print(msgspec.json.encode([group.model_dump(mode="json") for group in groups]).decode())
    else:
        console.print(plan_table(config.name, groups))


def install(file: File, settings: Sets = None) -> None:
    """Put sources and environment on every host. What is there already is left alone."""
    run(commands.install(_prepared(file, settings or [], None), console))


def scale(
    instances: Annotated[int, typer.Argument(min=1, help="How many instances there should be.")],
    fleet: FleetName = None,
    run_dir: RunDir = Path("run"),
) -> None:
    """Start further instances, or drain and end the last ones."""
    run(commands.scale(one_fleet(run_dir, fleet), instances, console))


def drain(
    instance: Annotated[str, typer.Argument(help="Such as instance-0.")],
    fleet: FleetName = None,
    run_dir: RunDir = Path("run"),
) -> None:
    """Send an instance no more requests and wait until it has none. `up` or `restart` puts it back."""
    if not run(commands.drain(one_fleet(run_dir, fleet), instance, console)):
        raise DeployError(f"{instance} still has requests; it gets no new ones")


def restart(
    group: Annotated[str | None, typer.Argument(help="Such as instance-0; all when left out.")] = None,
    fleet: FleetName = None,
    run_dir: RunDir = Path("run"),
) -> None:
    """Drain, end and start anew, one after the other, while the rest serves."""
    run(commands.restart(one_fleet(run_dir, fleet), group, console))


def provision(
    file: File,
    settings: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and log, but change nothing.")] = False,
    looks: Annotated[int | None, typer.Option(min=1, help="End after so many; None: never.")] = None,
) -> None:
    """Let a running fleet follow its load, as the file's `provisioning` says, until Ctrl-C.

    Every decision is a line of JSON in the log, with its reason and predicted effect.
    """
    # Only this verb loads the simulation.
    from deploy.fleet.provision import provision_fleet

    config = load_settings(file, settings or [], None)
    _check_backend(config, file)
    if dry_run:
        chosen = config.provisioning.model_copy(update={"dry_run": True})
        config = config.model_copy(update={"provisioning": chosen})
    root = project_of(file)
    run(provision_fleet(config, root, FleetFolder(root / config.run_dir / config.name), console, looks))


def doctor(file: File, settings: Sets = None, as_json: AsJson = False) -> None:
    """Examine every host and say what to fix. Exits with 1 if something is wrong."""
    prepared = _prepared(file, settings or [], None)
    record = prepared.record
    runs = prepared.folder.read() is not None

    async def work() -> list[Any]:
        async with opened(record) as backend:
            return list(await examine(prepared.config, record.groups, prepared.layout, backend, runs=runs))

    findings = run(work())
    if as_json:
        print(msgspec.json.encode(findings).decode())
    else:
        console.print(findings_table(findings))
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def init(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the fleet; asked for if not given.")] = None,
    backend: Annotated[
        Literal["local", "ssh", "slurm"] | None, typer.Option(help="Asked for if not given.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="[USER@]HOST, or NAME=[USER@]HOST; several times. For ssh.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each host, or per instance with Slurm.")] = 0,
    partition: Annotated[str | None, typer.Option(help="Of Slurm.")] = None,
    instances: Annotated[int | None, typer.Option(min=1, help="None: what the hosts have room for.")] = None,
    model: Annotated[str, typer.Option(help="Folder of the model.")] = ".cache/models/llama-2-7b",
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a cluster file from flags, or from answers to what they leave open."""
    name = name or typer.prompt("Name of the fleet", default=file.stem)
    kind = backend or typer.prompt("Where does it run (local, ssh, slurm)", default="ssh")
    given: dict[str, Any] = {"kind": kind}
    room = 1
    if kind == "ssh":
        listed = host or typer.prompt("Hosts, as [USER@]HOST, parted by blanks").split()
        hosts = tuple(_host(each, gpus) for each in listed)
        given, room = backend_of(hosts), room_on(hosts)
    elif kind == "slurm" and partition:
        given["partition"] = partition
    draft = Draft(
        name=name,
        backend=given,
        instances=instances or room,
        executor="real" if gpus else "emulated",
        model=model,
        served_model_name=Path(model).name,
    )
    _write(file, draft, force=force)


def import_cloudlab(
    manifest: Annotated[Path, typer.Argument(help="Manifest (XML) of an experiment that is up.")],
    *,
    username: Annotated[str, typer.Option(help="Your name on CloudLab.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("config/cluster/cloudlab.yaml"),
    name: Annotated[str, typer.Option(help="Name of the fleet.")] = "cloudlab",
    gpus: Annotated[int | None, typer.Option(min=0, help="Of each node; else by its hardware type.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a cluster file for the nodes of a CloudLab manifest."""
    hosts = read_manifest(manifest, username, gpus)
    executor = "real" if any(host.gpus for host in hosts) else "emulated"
    _write(out, Draft(name, backend_of(hosts), room_on(hosts), executor=executor), force=force)


def up(file: Path, settings: list[str], instances: int | None, *, roll_back: bool) -> None:
    """Bring a fleet to what its file asks for."""
    prepared = _prepared(file, settings, instances)
    url = run(commands.up(prepared, console, roll_back=roll_back))
    end = f"block-deploy down {prepared.config.name} --run-dir {prepared.folder.path.parent}"
    print(f"fleet {prepared.config.name} is up; `{end}` ends it\nOPENAI_BASE_URL={url}")


def status(folder: FleetFolder) -> FleetReport:
    """Look at a fleet as it is now."""

    record = commands.recorded(folder)
    try:
        key = predictor_key(record.settings, Path(record.root))
    except ConfigError as error:
        key = ""
        print(f"predictors are not asked: {error}", file=sys.stderr)

    async def work() -> FleetReport:
        async with opened(record) as backend:
            return await report_on(record, backend, key)

    return run(work())


def show_status(report: FleetReport) -> None:
    """Print it."""
    console.print(report_table(report))
    for line in report.unreachable.values():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def logs(folder: FleetFolder, process: str | None, *, following: bool) -> None:
    """Print the logs of a fleet, from the ends they have now."""

    async def work() -> None:
        async with opened(commands.recorded(folder)) as backend:
            known: dict[str, dict[str, int]] = {host: {} for host in backend.hosts}
            while True:
                for host in backend.hosts:
                    fresh = await backend.logs(host, known[host], _TAIL_BYTES)
                    known[host] = fresh.offsets
                    _print_logs(fresh, process)
                if not following:
                    return
                await asyncio.sleep(_FOLLOW_S)

    run(work())


def down(folder: FleetFolder, *, forget: bool) -> None:
    """End a fleet."""
    began_s = time.monotonic()
    run(commands.down(folder, console, forget=forget))
    print(f"fleet {folder.name} is down ({time.monotonic() - began_s:.1f} s)")


def one_fleet(run_dir: Path, name: str | None) -> FleetFolder:
    """The named fleet, or the only one. Raises DeployError when there is none, or several."""
    found = {folder.name: folder for folder in commands.find_fleets(run_dir)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    known = ", ".join(found) or "none"
    wanted = f"no fleet {name}" if name else "name one with --fleet: no single fleet"
    raise DeployError(f"{wanted} is up in {run_dir.absolute()}; there: {known} (other folders: --run-dir)")


def _prepared(file: Path, settings: list[str], instances: int | None) -> Prepared:
    config = load_settings(file, settings, instances)
    _check_backend(config, file)
    prepared = prepare(config, project_of(file))
    check_exposure(config, dict.fromkeys(group.listen for group in prepared.record.groups), file)
    return prepared


def _check_backend(config: FleetConfig, file: Path) -> None:
    if config.backend is None:
        raise DeployError(
            f"{file}: names no backend, so it is a cluster that its launcher holds, for which there are only "
            "plan, up, status, logs and down; for a fleet on this machine: --set backend.kind=local"
        )


def _host(text: str, gpus: int) -> HostConfig:
    name, equals, ssh = text.partition("=")
    ssh = ssh if equals else text
    address = ssh.rpartition("@")[2]
    return HostConfig(name=name if equals else address, address=address, ssh=ssh, gpus=gpus)


def _write(path: Path, draft: Draft, *, force: bool) -> None:
    write_new(path, render(draft), force=force)
    print(f"{path} is written; `block-deploy plan {path}` shows what it means")


def _print_logs(logs: Logs, process: str | None) -> None:
    for name, text in logs.text.items():
        if process in {None, name}:
            prefix = "" if process else f"{name}: "
            sys.stdout.writelines(f"{prefix}{line}\n" for line in text.splitlines())
    sys.stdout.flush()
