"""The one configuration tree. Values are frozen, bounded, and parsed once at the edge by ``load_config``.

Each default is written here and nowhere else. The services take their part of the tree whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from block.errors import ConfigError
from block.once import OnceLoader
from block.operation import (
    AccessSettings,
    HangSettings,
    ReceiptSettings,
    SchedulerAccess,
    TlsSettings,
    TracingSettings,
    UpstreamSettings,
)
from block.settings import Flag, Option, Port, Seconds, Settings, Share, Url, Whole
from block.types import EngineLimits, SchedulingPolicy


class EngineSettings(Settings):
    """One vLLM server. Names follow vLLM's flags."""

    model: Path = Field(description="Folder with the model's config.json; weights are not needed to emulate.")
    served_model_name: str = Field(min_length=1, description="Model name that clients ask for.")
    executor: Literal["emulated", "real"] = Field(
        "emulated", description="Whether the forward pass is waited for (no GPU) or computed."
    )
    latency: Path = Field(description="Step-latency model file: what the emulated GPU and the predictor use.")
    num_gpu_blocks: Whole | None = Field(None, ge=2, description="KV blocks; None lets vLLM measure memory.")
    block_size: Whole = Field(16, ge=1, le=256, description="Tokens per KV block.")
    max_num_seqs: Whole = Field(48, ge=1, le=65_536, description="Most requests in one batch.")
    max_num_batched_tokens: Whole = Field(512, ge=1, description="Token budget of one step (chunk size).")
    max_model_len: Whole = Field(4096, ge=1, description="Most tokens of prompt and response together.")
    prefix_caching: Flag = Field(False, description="Reuse KV blocks of equal prompt prefixes.")
    async_scheduling: Flag = Field(True, description="Schedule the next step while the current one runs.")
    policy: SchedulingPolicy = Field("fcfs", description="vLLM's queue order.")
    extra_flags: tuple[str, ...] = Field((), description="Further vLLM flags, passed as they are.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables for the server, on top of ours; no secrets here."
    )

    def limits(self) -> EngineLimits:
        """What bounds such an engine; raises ConfigError if num_gpu_blocks is left to vLLM."""
        if self.num_gpu_blocks is None:
            raise ConfigError("engine.num_gpu_blocks: not set; a simulation needs to know the KV blocks")
        return EngineLimits(
            block_size=self.block_size,
            total_blocks=self.num_gpu_blocks - 1,  # one is vLLM's null block
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            prefix_caching=self.prefix_caching,
            policy=self.policy,
            async_scheduling=self.async_scheduling,
        )


class PredictorSettings(Settings):
    """How a side-car predictor works; the same for all instances of a cluster."""

    latency: Path | None = Field(None, description="Step-latency model file; None takes the engine's.")
    commit_ttl_s: Seconds = Field(
        5.0, description="How long a committed choice counts as waiting if the feed never shows it."
    )
    calibrate: bool = Field(
        True, description="Correct the step-latency model by the steps that the feed reports."
    )
    expect_arrivals: Flag = Field(
        True, description="Let predictions count on further arrivals like the latest ones."
    )
    stale_after_s: Seconds = Field(5.0, description="Feed silence after which the mirror is not trusted.")
    access: AccessSettings = Field(default_factory=AccessSettings)
    tls: TlsSettings | None = Field(None, description="Serve HTTPS; None serves plain HTTP.")
    hangs: HangSettings = Field(
        default_factory=HangSettings, description="When `block-deploy`, which launched it, starts it again."
    )
    vidur: Path | None = Field(
        None, description="A Vidur checkout to simulate with instead: tens of milliseconds a question."
    )


class PredictorConfig(Settings):
    """One predictor process."""

    instance: str = Field(min_length=1, description="Name of the vLLM server beside it.")
    feed: str = Field(pattern=r"^(ipc|tcp)://.+", description="ZMQ address of that server's state feed.")
    latency: Path = Field(description="Step-latency model file.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(description="Port to listen on.")
    optional: Flag = Field(
        False,
        description="Its engine may never come, or leave: on a shared port, health and metrics then do not "
        "speak of it.",
    )
    settings: PredictorSettings = Field(default_factory=PredictorSettings)


class InstanceConfig(Settings):
    """One vLLM server as the scheduler sees it."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: Url = Field(description="Base URL of its OpenAI API, without /v1.")
    predictor_url: Url | None = Field(None, description="Its predictor, if any.")
    draining: Flag = Field(False, description="Gets no new requests; those it has may finish.")
    drain_timeout_s: Seconds | None = Field(
        None, description="How long they may, once it drains or is off the list; None takes the setting."
    )


def _named_apart(instances: tuple[InstanceConfig, ...]) -> tuple[InstanceConfig, ...]:
    names = Counter(instance.name for instance in instances)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise PydanticCustomError("not_unique", f"several are named {twice[0]!r}; give each its own name")
    return instances


Instances = Annotated[tuple[InstanceConfig, ...], AfterValidator(_named_apart)]


class InstanceList(Settings):
    """What a file of instances holds."""

    instances: Instances


class BreakerSettings(Settings):
    """When an instance gets no more requests because of what became of the last ones."""

    failures_in_a_row: Whole = Field(5, ge=1, description="Failures without a success that open it.")
    failure_share: Share = Field(0.5, description="Share of failures in the window that opens it.")
    least_outcomes: Whole = Field(20, ge=1, description="Outcomes in the window below which none is judged.")
    window_s: Seconds = Field(10.0, description="Length of the window, which begins with a failure.")
    first_pause_s: Seconds = Field(
        1.0, description="Without requests, before the first check; each further pause is twice as long."
    )
    longest_pause_s: Seconds = Field(60.0, description="Longest such pause.")
    trial_s: Seconds = Field(
        5.0,
        description="Half open, while the request that tries has no outcome: after each such time twice as "
        "many may.",
    )


class LengthSettings(Settings):
    """How response lengths are estimated, beside the estimator's name."""

    model: Path | None = Field(None, description="Folder of a trained model, for features and roberta.")
    url: Url | None = Field(None, description="A `block-length serve` to ask, for remote.")
    deadline_s: Seconds = Field(
        0.01, description="What roberta and remote may take; later, history answers in their place."
    )
    cache_entries: Whole = Field(
        4096, ge=0, le=10_000_000, description="Estimates of features, roberta and remote kept by prompt."
    )
    recalibrate: Flag = Field(
        True, description="Correct the estimates of features, roberta and remote by completed requests."
    )


class SchedulerSettings(Settings):
    """How the global scheduler routes; the same for all its copies."""

    policy: str = Field(
        "block",
        description="Default policy, or package.module:Class of your own; a request may name another.",
    )
    policy_options: dict[str, dict[str, Option]] = Field(
        default_factory=dict, description="Options by policy name, as in {block: {objective: ttft}}."
    )
    probe_count: Whole | None = Field(None, ge=1, description="Predictors asked per request; None asks all.")
    probe_deadline_s: Seconds = Field(0.05, description="Answers that come later are ignored.")
    probe_quorum: Whole | None = Field(
        None, ge=1, description="Answers after which little more is waited; None waits for all."
    )
    probe_grace_s: float = Field(
        0.001, strict=True, ge=0, le=60, description="How much more is waited once the quorum has answered."
    )
    probe_minimum: Share = Field(
        0.5, description="Share of those asked that must answer; with fewer, the last known state decides."
    )
    last_state_max_age_s: Seconds = Field(
        10.0, description="How long an instance's last known load is better than none."
    )
    slo_ttft_s: Seconds | None = Field(
        None, description="Longest acceptable time to the first token; a request may bring its own."
    )
    slo_e2e_s: Seconds | None = Field(
        None, description="Longest acceptable time to the response's end; a request may bring its own."
    )
    admission_max_miss: Share | None = Field(
        None,
        description="Refuse (429) what will miss its SLO everywhere more likely than this; None admits all.",
    )
    scenarios: Whole = Field(
        1, ge=1, le=64, description="Scenarios of response lengths that a predictor averages over."
    )
    estimator: str = Field(
        "max_tokens",
        description="Response lengths: constant, max_tokens, oracle, history, features, roberta or remote.",
    )
    constant_output_tokens: Whole = Field(
        256, ge=1, description="What the constant estimator says, and history before it has seen anything."
    )
    lengths: LengthSettings = Field(default_factory=LengthSettings)
    tokenizer: Path | None = Field(
        None, description="tokenizer.json used to count prompt tokens; None estimates from bytes."
    )
    attempts: Whole = Field(
        3, ge=1, le=16, description="Instances tried before the first byte; refused connections do not count."
    )
    retry_pause_s: float = Field(
        0.02,
        strict=True,
        ge=0,
        le=60,
        description="Most that is waited before the second attempt, less up to half by chance; each next "
        "may be twice as long. A refused connection is followed up at once.",
    )
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    max_outstanding: Whole | None = Field(
        None, ge=1, description="Requests a process works on at once; more are refused (429). None: no limit."
    )
    total_timeout_s: Seconds = Field(
        7200.0, description="From a request's coming to its answer's end, all attempts together."
    )
    suspect_after_s: Seconds = Field(
        5.0,
        description="A stream waits for its first byte and nothing at all comes from its instance for this "
        "long: others are preferred to it.",
    )
    silence_timeout_s: Seconds = Field(
        30.0, description="The same for so long: it is wedged. Its breaker opens, what waits goes elsewhere."
    )
    whole_silence_timeout_s: Seconds = Field(
        600.0, description="The same where only answers that are no streams are waited for."
    )
    drain_timeout_s: Seconds = Field(
        300.0, description="How long requests on an instance that drains or is taken away may take."
    )
    shutdown_grace_s: Seconds = Field(
        5.0, description="How long open requests may take after SIGTERM; less than a launcher waits."
    )
    connect_timeout_s: Seconds = Field(2.0, description="To open a connection to an instance.")
    first_byte_timeout_s: Seconds = Field(300.0, description="From dispatch to a stream's first byte.")
    response_timeout_s: Seconds = Field(
        3600.0, description="From dispatch to an answer that is no stream; it spans the whole generation."
    )
    idle_timeout_s: Seconds = Field(120.0, description="Between two chunks of one stream.")
    health_interval_s: Seconds = Field(1.0, description="Between two health polls of an instance.")
    health_timeout_s: Seconds = Field(
        5.0, description="For one poll, which a busy server may answer late; three late ones in a row count."
    )
    workers: Whole = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share one scheduler's port, and nothing else: a scrape of the "
        "metrics is answered by any of them, and tells by a label which.",
    )
    max_body_bytes: Whole = Field(16 * 2**20, ge=1024, description="Larger request bodies are refused.")
    access: SchedulerAccess = Field(default_factory=SchedulerAccess)
    tls: TlsSettings | None = Field(None, description="Serve HTTPS; None serves plain HTTP.")
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    receipts: ReceiptSettings = Field(default_factory=ReceiptSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    record_prompts: Flag = Field(
        False, description="Write prompts into the log's request lines and into receipts."
    )


class SchedulerConfig(Settings):
    """One global scheduler process."""

    instances_file: Path | None = Field(
        None,
        description="List of instances, YAML or JSON, that is followed; until it is readable, `instances`.",
    )
    instances: Instances = Field((), validate_default=True)
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(8000, description="Port to listen on.")
    settings: SchedulerSettings = Field(default_factory=SchedulerSettings)

    @field_validator("instances")
    @classmethod
    def _with_somebody_to_serve(cls, instances: Instances, info: ValidationInfo) -> Instances:
        if not instances and info.data.get("instances_file") is None:
            raise PydanticCustomError("empty", "there is none; list at least one, or give instances_file")
        return instances


class ClusterConfig(Settings):
    """A whole fleet on this machine: what ``block-deploy up`` takes."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    instances: Whole = Field(3, ge=1, le=64, description="How many vLLM servers.")
    host: str = Field("127.0.0.1", min_length=1, description="Address that everything listens on.")
    scheduler_port: Port = Field(8000)
    engine_port: Port = Field(8100, description="Port of the first vLLM server; the next follow.")
    predictor_port: Port = Field(8200, description="Port of the first predictor; the next follow.")
    predictors_per_process: Whole = Field(
        16,
        ge=1,
        le=64,
        description="Predictors of one host that share a process and a port; with 1, each has its own.",
    )
    ready_timeout_s: Seconds = Field(300.0, description="How long start-up may take.")
    run_dir: Path = Field(Path("run"), description="Where logs, sockets and resolved configs go.")
    engine: EngineSettings
    predictor: PredictorSettings = Field(default_factory=PredictorSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)


_UNSHOWN = frozenset({"model_type", "secret"})
"""Errors that show no value: where a group should stand, somebody may have written a secret."""


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_config(path: Path, kind: type[SettingsT], overrides: dict[str, Any] | None = None) -> SettingsT:
    """Read a YAML file into ``kind``; ``overrides`` maps dotted field names to values.

    Raises ConfigError that names the file (or ``--set``), the field, the value and what would be valid.
    """
    raw = _read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, found {type(raw).__name__}")
    for dotted, value in (overrides or {}).items():
        _set_dotted(raw, dotted, value)
    return parse_config(raw, kind, str(path), overrides)


def load_instances(path: Path) -> tuple[InstanceConfig, ...]:
    """Read a list of instances, bare or under ``instances``. Raises ConfigError as ``load_config`` does."""
    raw = _read_yaml(path)
    if isinstance(raw, list):
        raw = {"instances": raw}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a list of instances, found {type(raw).__name__}")
    return parse_config(raw, InstanceList, str(path)).instances


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), OnceLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        # PyYAML's own for a date that is none, a number too long, or a tag on what it does not fit.
        raise ConfigError(f"{path}: not valid YAML ({error}); mend the syntax at that place") from error


def parse_config(
    raw: dict[str, Any], kind: type[SettingsT], source: str, overrides: Iterable[str] | None = None
) -> SettingsT:
    """Validate ``raw``; ``source`` is named in errors, ``--set`` for the dotted names in ``overrides``."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(source, item, kind, overrides or ()) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def source_of(field: str, source: str, overrides: Iterable[str]) -> str:
    """``--set`` if the dotted ``field``, or what it is part of, was given so; else ``source``."""
    given = any(f"{field}.".startswith(f"{name}.") for name in overrides)
    return "--set" if given else source


def _set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        child = raw.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {dotted}: {name} is not a group of settings")
        raw = child
    raw[leaf] = value


def _explain(source: str, item: Any, kind: type[Settings], overrides: Iterable[str]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    source = source_of(field, source, overrides)
    if item["type"] == "extra_forbidden":
        group = _group_at(kind, item["loc"][:-1])
        return f"{source}: {field}: unknown setting; known here: {', '.join(group.model_fields)}"
    if item["type"] == "missing":
        return f"{source}: {field}: missing; add it"
    if isinstance(item["input"], dict | list | tuple) or item["type"] in _UNSHOWN:
        return f"{source}: {field}: {item['msg']}"
    return f"{source}: {field} = {item['input']!r}: {item['msg']}"


def _group_at(kind: type[Settings], path: tuple[Any, ...]) -> type[Settings]:
    for name in path:
        info = kind.model_fields.get(str(name))
        annotation = info.annotation if info else None
        groups = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        kind = next((group for group in groups if issubclass(group, Settings)), kind)
    return kind
