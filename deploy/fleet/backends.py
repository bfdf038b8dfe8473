"""The back ends by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from block.fleet_config import FleetConfig, LocalBackend, SlurmBackend, SshBackend
from deploy.fleet.backend import Backend
from deploy.fleet.bundle import Bundle
from deploy.fleet.hosts_backend import HostsBackend
from deploy.fleet.install import Layout
from deploy.fleet.placement import host_names
from deploy.fleet.shell import LocalShell, SshShell
from deploy.fleet.slurm_backend import SlurmJobs


def open_backend(config: FleetConfig, layout: Layout, bundle: Bundle | None = None) -> Backend:
    """The back end of a fleet; without ``bundle``, nothing can be installed. Connects to nobody yet."""
    return _BACKENDS[type(config.backend)](config, layout, bundle)


def _local(config: FleetConfig, layout: Layout, bundle: Bundle | None) -> Backend:
    return HostsBackend(config.name, [LocalShell(host) for host in host_names(config)], layout, bundle)


def _ssh(config: FleetConfig, layout: Layout, bundle: Bundle | None) -> Backend:
    assert isinstance(config.backend, SshBackend)
    shells = [SshShell(config.backend, host) for host in config.backend.hosts]
    return HostsBackend(config.name, shells, layout, bundle)


_BACKENDS: Mapping[type, Callable[[FleetConfig, Layout, Bundle | None], Backend]] = {
    LocalBackend: _local,
    SshBackend: _ssh,
    SlurmBackend: SlurmJobs,
}
