"""Which group runs where. Pure: a fleet's configuration in, groups out.

Instances are dealt out one per host and round, in the order of the file, so that a fleet that grows or
shrinks leaves everybody else in place. Ports are different within a whole fleet, so that groups may meet on
one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from block.errors import ConfigError
from block.fleet_config import FleetConfig, HostConfig, LocalBackend, SlurmBackend, SshBackend
from deploy.company import Company, companies
from deploy.fleet.group import Group, InstancePart, PredictorsPart, SchedulerPart

ANYWHERE = "slurm"
"""The host of groups whose machine Slurm chooses."""
_HERE = "this-machine"
_MOST_HERE = 64
"""Instances of a fleet, as its settings bound them."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one group."""

    host: str
    listen: str
    address: str
    gpus: tuple[int, ...] = ()
    engine: Mapping[str, object] = field(default_factory=dict)
    """Engine settings that differ there."""


def place(config: FleetConfig, source: str) -> tuple[Group, ...]:
    """All groups of a fleet: predictors that share a process, instances, schedulers. ``source``: digest of
    what they run. One that changes is renewed in this order: an instance needs its predictor.

    Raises ConfigError when there is no room, or ports run out.
    """
    _check_ports(config)
    instances, schedulers = _SLOTS[type(config.backend)](config)
    if len(instances) < config.instances:
        raise ConfigError(
            f"instances = {config.instances}: the hosts have room for {len(instances)}; add hosts, or say "
            "how many each takes (backend.hosts: gpus, instances)"
        )
    company_of = _company_of(config, instances)
    wanted = range(config.instances)
    shared = {company.first: company for index in wanted if (company := company_of[index]).shared}
    return (
        *(_predictors(config, source, company, instances[first]) for first, company in shared.items()),
        *(_instance(config, source, index, instances[index], company_of[index]) for index in wanted),
        *(_scheduler(config, source, index, schedulers[index]) for index in range(config.schedulers)),
    )


def most_instances(config: FleetConfig) -> int | None:
    """As many fit on the hosts; None where nothing bounds them."""
    if not isinstance(config.backend, SshBackend):
        return None
    return sum(len(_room(host, config)) for host in config.backend.hosts)


def host_names(config: FleetConfig) -> tuple[str, ...]:
    """All hosts of a fleet, whether or not something runs there."""
    if isinstance(config.backend, SshBackend):
        return tuple(host.name for host in config.backend.hosts)
    return (ANYWHERE,) if isinstance(config.backend, SlurmBackend) else (_HERE,)


def _company_of(config: FleetConfig, slots: Sequence[Slot]) -> Mapping[int, Company]:
    """Instance -> those with which its predictor shares a process.

    All for which hosts have room count, so that a fleet that grows or shrinks leaves everybody in place.
    """
    by_host: dict[str, list[int]] = {}
    for index, slot in enumerate(slots):
        by_host.setdefault(slot.host, []).append(index)
    most = {ANYWHERE: 1}  # where Slurm puts them, nobody knows
    found = [
        company
        for host, indices in by_host.items()
        for company in companies(indices, most.get(host, config.predictors_per_process))
    ]
    return {member: company for company in found for member in company.members}


def _predictors(config: FleetConfig, source: str, company: Company, slot: Slot) -> Group:
    part = PredictorsPart(
        instances=tuple(f"instance-{index}" for index in company.members),
        latency=config.engine.latency,
        predictor=config.predictor,
        port=config.predictor_port + company.first,
    )
    return _group(config, source, company.name, replace(slot, gpus=()), part)


def _instance(config: FleetConfig, source: str, index: int, slot: Slot, company: Company) -> Group:
    engine = config.engine.model_copy(update=dict(slot.engine))
    gpus = max(len(slot.gpus), config.gpus_per_instance if slot.host == ANYWHERE else 0)
    if gpus > 1 and engine.executor == "real":
        flags = (*engine.extra_flags, "--tensor-parallel-size", str(gpus))
        engine = engine.model_copy(update={"extra_flags": flags})
    part = InstancePart(
        engine=engine,
        engine_port=config.engine_port + index,
        predictor=None if company.shared else config.predictor,
        predictor_port=config.predictor_port + company.first,
        predictor_path=company.path(f"instance-{index}"),
    )
    return _group(config, source, f"instance-{index}", slot, part)


def _scheduler(config: FleetConfig, source: str, index: int, slot: Slot) -> Group:
    part = SchedulerPart(
        scheduler=config.scheduler,
        port=config.scheduler_port + index,
        served_model_name=config.engine.served_model_name,
    )
    return _group(config, source, f"scheduler-{index}", slot, part)


def _group(
    config: FleetConfig,
    source: str,
    name: str,
    slot: Slot,
    part: InstancePart | PredictorsPart | SchedulerPart,
) -> Group:
    return Group(
        fleet=config.name,
        name=name,
        host=slot.host,
        listen=slot.listen,
        address=slot.address,
        gpus=slot.gpus,
        ready_timeout_s=config.ready_timeout_s,
        source=source,
        part=part,
    )


def _local_slots(config: FleetConfig) -> tuple[list[Slot], list[Slot]]:
    slot = Slot(_HERE, config.host, config.host)
    return [slot] * _MOST_HERE, [slot] * config.schedulers


def _slurm_slots(config: FleetConfig) -> tuple[list[Slot], list[Slot]]:
    # The address is found on the node, once the job is there.
    slot = Slot(ANYWHERE, "0.0.0.0", "")
    return [slot] * config.instances, [slot] * config.schedulers


def _ssh_slots(config: FleetConfig) -> tuple[list[Slot], list[Slot]]:
    assert isinstance(config.backend, SshBackend)
    hosts = {host.name: host for host in config.backend.hosts}
    rooms = [_room(host, config) for host in hosts.values()]
    rounds = max(map(len, rooms))
    instances = [room[turn] for turn in range(rounds) for room in rooms if turn < len(room)]
    chosen = [hosts[name] for name in config.backend.scheduler_hosts] or list(hosts.values())
    schedulers = [
        Slot(host.name, host.reached_by, host.reached_by)
        for host in islice(chosen * config.schedulers, config.schedulers)
    ]
    return instances, schedulers


def _room(host: HostConfig, config: FleetConfig) -> list[Slot]:
    each = config.gpus_per_instance if host.gpus else 0
    by_gpus = host.gpus // each if each else 1
    count = by_gpus if host.instances is None else host.instances
    if each and count > by_gpus:
        raise ConfigError(
            f"backend.hosts: {host.name} has {host.gpus} GPUs, too few for {count} instances of {each}"
        )
    changed: dict[str, object] = {"executor": host.executor} if host.executor else {}
    return [
        Slot(host.name, host.reached_by, host.reached_by, tuple(range(i * each, (i + 1) * each)), changed)
        for i in range(count)
    ]


_SLOTS: Mapping[type, Callable[[FleetConfig], tuple[list[Slot], list[Slot]]]] = {
    LocalBackend: _local_slots,
    SshBackend: _ssh_slots,
    SlurmBackend: _slurm_slots,
}


def _check_ports(config: FleetConfig) -> None:
    taken: dict[int, str] = {}
    counts = {
        "scheduler_port": config.schedulers,
        "engine_port": config.instances,
        "predictor_port": config.instances,
    }
    for name, count in counts.items():
        first: int = getattr(config, name)
        if first + count - 1 > 65535:
            raise ConfigError(f"{name} = {first}: leaves no room for {count} ports up to 65535")
        for port in range(first, first + count):
            if port in taken:
                raise ConfigError(f"{name} = {first}: port {port} is also in the range of {taken[port]}")
            taken[port] = name
