"""A fleet on other machines: the cluster's own settings, and where and how its parts run.

A cluster file without ``backend`` is a cluster on this machine that its launcher holds; with one it is a
fleet that outlives the command that started it.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from block.config import ClusterConfig
from block.provisioning_config import ProvisioningSettings
from block.settings import Flag, Port, Seconds, Settings, Whole

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEYS?|CREDENTIALS?)$", re.IGNORECASE)
_SHELL_WORD = r"^[^\s'\"`$;&|<>()\\!*?\[\]{}]+$"

Word = Annotated[str, Field(min_length=1, max_length=256, pattern=_SHELL_WORD)]
"""Something that may stand in a shell's command line as it is."""


class SecretReference(Settings):
    """Where a secret is read when a fleet starts; its value stands in no file of ours and no command line."""

    env: str | None = Field(None, min_length=1, description="Variable of the environment `up` runs in.")
    file: Path | None = Field(None, description="File that holds nothing else; ~ is your home.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise PydanticCustomError("secret", "name either env or file")
        return self


class SetupSettings(Settings):
    """What every host needs before anything can run there."""

    python: Word = Field("python3.11", description="Interpreter that the environment is made with.")
    environment: Path | None = Field(
        None, description="An environment that is on every host already; nothing is installed then."
    )
    requirements: Path = Field(Path("requirements.lock"), description="Pinned packages, installed as listed.")
    engine: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$",
        description="vLLM for the hosts' hardware in place of the list's CPU build, as vllm==0.32.0.",
    )
    pip_arguments: tuple[Word, ...] = Field((), description="Further arguments of pip, as an index's.")
    prepare: tuple[str, ...] = Field(
        (), description="Shell lines run first, wherever something runs, as `module load cuda`."
    )
    timeout_s: Seconds = Field(3600.0, description="How long installing may take on one host.")


class HostConfig(Settings):
    """One machine."""

    name: str = Field(min_length=1, max_length=64, pattern=NAME)
    address: Word | None = Field(
        None, description="What its servers listen on and the others reach them by; None takes the name."
    )
    ssh: Word | None = Field(
        None, description="What ssh is told: [USER@]HOST or an alias of ~/.ssh/config; None: the address."
    )
    port: Port | None = Field(None, description="Port of its sshd; None leaves it to ssh.")
    gpus: Whole = Field(0, ge=0, le=64, description="GPUs that instances may have.")
    instances: Whole | None = Field(
        None, ge=0, le=64, description="Most instances; None: what its GPUs allow, one if it has none."
    )
    executor: Literal["emulated", "real"] | None = Field(
        None, description="As engine.executor, for this host only."
    )

    @property
    def reached_by(self) -> str:
        """Address that the other hosts use."""
        return self.address or self.name


class LocalBackend(Settings):
    """This machine, as one host."""

    kind: Literal["local"]
    folder: Path = Field(Path("~/.block-deploy"), description="Where everything lies.")


class SshBackend(Settings):
    """Machines reached by the system's OpenSSH."""

    kind: Literal["ssh"]
    hosts: tuple[HostConfig, ...] = Field(min_length=1)
    scheduler_hosts: tuple[str, ...] = Field((), description="Where schedulers run; none: the first hosts.")
    folder: Path = Field(Path("~/.block-deploy"), description="Where everything lies on each host.")
    user: Word | None = Field(None, description="None leaves it to ssh.")
    identity: Path | None = Field(None, description="Private key file; None leaves it to ssh and its agent.")
    known_hosts: Path | None = Field(None, description="File of known host keys; None leaves it to ssh.")
    connect_timeout_s: Annotated[Whole, Field(ge=1, le=600)] = Field(10, description="To reach a host.")

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = Counter(host.name for host in self.hosts)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise PydanticCustomError("not_unique", f"several hosts are named {twice[0]!r}")
        unknown = [name for name in self.scheduler_hosts if name not in names]
        if unknown:
            known = ", ".join(names)
            raise PydanticCustomError(
                "unknown_host", f"scheduler_hosts names {unknown[0]!r}, which is no host; known: {known}"
            )
        return self


class SlurmBackend(Settings):
    """Jobs of a Slurm cluster; ``block-deploy`` runs on one of its login nodes."""

    kind: Literal["slurm"]
    folder: Path = Field(
        Path("~/.block-deploy"), description="Where everything lies; all nodes must see it by this path."
    )
    partition: Word | None = Field(None, description="None takes the cluster's default.")
    scheduler_partition: Word | None = Field(None, description="For schedulers; None: the same.")
    account: Word | None = Field(None)
    qos: Word | None = Field(None)
    gpu_type: Word | None = Field(None, description="Asked for as gpu:TYPE:COUNT; None: any.")
    cpus: Whole = Field(4, ge=1, le=1024, description="Cores of an instance's job.")
    memory_mb: Whole | None = Field(None, ge=1, description="Of an instance's job; None: the default.")
    time_limit_min: Whole | None = Field(None, ge=2, description="Walltime of a job; None: the default.")
    at_time_limit: Literal["requeue", "end"] = Field(
        "requeue", description="What becomes of an instance whose walltime is over."
    )
    drain_s: Whole = Field(
        60, ge=1, le=3600, description="Before its walltime is over, how long a job may drain."
    )
    address: str = Field(
        "hostname", min_length=1, description="Command whose first word is what others reach a node by."
    )
    options: tuple[str, ...] = Field((), description="Further options of sbatch, as --constraint=a30.")


Backend = Annotated[LocalBackend | SshBackend | SlurmBackend, Field(discriminator="kind")]


class FleetConfig(ClusterConfig):
    """What ``block-deploy`` takes: a cluster on this machine, or a fleet elsewhere."""

    backend: Backend | None = Field(None, description="Where it runs; None: here, held by its launcher.")
    schedulers: Whole = Field(1, ge=1, le=64, description="Copies of the scheduler.")
    gpus_per_instance: Whole = Field(1, ge=1, le=64, description="On hosts that have GPUs.")
    drain_timeout_s: Seconds = Field(60.0, description="How long an instance may take to end its requests.")
    setup: SetupSettings = Field(default_factory=SetupSettings)
    secrets: dict[str, SecretReference] = Field(
        default_factory=dict, description="Variables for all servers, by where their values are read."
    )
    provisioning: ProvisioningSettings = Field(
        default_factory=ProvisioningSettings,
        description="How the number of instances follows the load, while `block-deploy provision` runs.",
    )
    keep_logs: Flag = Field(True, description="Whether `down` brings the logs here before it removes them.")

    @model_validator(mode="after")
    def _no_secret_in_plain_text(self) -> Self:
        for name in self.engine.environment:
            if _SECRET_NAME.search(name):
                raise PydanticCustomError(
                    "secret",
                    f"engine.environment holds {name}, which looks like a secret; "
                    f"refer to it: secrets: {{{name}: {{env: {name}}}}}",
                )
        return self

    @model_validator(mode="after")
    def _no_tls_on_fleets(self) -> Self:
        if self.backend is not None:
            for service, settings in (("scheduler", self.scheduler), ("predictor", self.predictor)):
                if settings.tls is not None:
                    remedy = "leave it out, and put a proxy that ends TLS before the schedulers"
                    raise PydanticCustomError(
                        "tls", f"{service}.tls is for clusters without a backend; {remedy}"
                    )
        return self

    @model_validator(mode="after")
    def _schedulers_have_a_place(self) -> Self:
        if self.schedulers > 1 and self.backend is None:
            raise PydanticCustomError(
                "schedulers", "several schedulers need a backend; on one port, set scheduler.workers"
            )
        return self
