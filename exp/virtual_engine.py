"""vLLM's own scheduler driven in virtual time: no server, no forward pass, no waiting.

The judge of scheduling fidelity, and a fast source of engine states. Tokens come from the emulated
model; whoever drives it decides how long a step takes. Importing this imports vLLM.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from block.vllm_plugin.emulated_model import EmulatedModel
from block.vllm_plugin.vocabulary import Vocabulary

MODEL = Path(__file__).resolve().parent.parent / "config" / "models" / "llama-2-7b"


@dataclass(frozen=True)
class VirtualEngineSpec:
    """What vLLM's flags would say."""

    scheduler: str = "vllm.v1.core.sched.scheduler.Scheduler"
    asynchronous: bool = False
    """Keep two steps under way, as vLLM does with an asynchronous scheduler class."""
    num_gpu_blocks: int = 1053
    """Null block included."""
    block_size: int = 16
    max_num_seqs: int = 48
    max_num_batched_tokens: int = 512
    max_model_len: int = 4096
    flags: dict[str, Any] = field(default_factory=dict)
    """Further ``EngineArgs``."""


class VirtualEngine:
    """Schedules, "computes" and processes outputs in the order in which vLLM's engine core does."""

    def __init__(self, spec: VirtualEngineSpec) -> None:
        self.scheduler = _make_scheduler(spec)
        vocabulary = Vocabulary(ordinary=tuple(range(3, 2000)), eos=2, size=32_000)
        self._model = EmulatedModel(vocabulary, seed=0)
        self.depth = 2 if spec.asynchronous else 1
        """Steps that may be under way at once."""
        self.under_way: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        """Scheduled steps and what they will return, oldest first."""
        self._hasher = _block_hasher(self.scheduler)

    def add(self, request_id: str, prompt: list[int], sampling: SamplingParams, **options: Any) -> Request:
        """Queue a request; ``options`` are ``Request``'s own, such as ``priority`` and ``arrival_time``."""
        # What vLLM's front end does with a model's EOS token.
        sampling.update_from_generation_config({}, eos_token_id=2)
        request = Request(request_id, prompt, sampling, None, block_hasher=self._hasher, **options)
        self.scheduler.add_request(request)
        return request

    def abort(self, request_ids: Iterable[str]) -> None:
        """As when clients disconnect."""
        self.scheduler.finish_requests(list(request_ids), RequestStatus.FINISHED_ABORTED)

    @property
    def busy(self) -> bool:
        """Whether there is anything left to schedule or to process."""
        return bool(self.under_way) or self.scheduler.has_requests()

    def schedule(self) -> SchedulerOutput | None:
        """Schedule a step if there is room for one under way; returns it."""
        if len(self.under_way) >= self.depth or not self.scheduler.has_requests():
            return None
        output: SchedulerOutput = self.scheduler.schedule()
        scheduled = self._model.admit(output)
        self.under_way.append((output, self._model.sample(scheduled, None)))
        return output

    def finish_step(self) -> dict[int, Any]:
        """Process the oldest step's output; returns vLLM's outputs by client."""
        output, tokens = self.under_way.popleft()
        processed: dict[int, Any] = self.scheduler.update_from_output(output, tokens)
        return processed

    def must_wait(self, output: SchedulerOutput | None) -> bool:
        """Whether the engine core, having scheduled ``output``, now waits for its oldest step."""
        room = len(self.under_way) < self.depth
        return (
            output is None or not room or not (output.num_scheduled_tokens or self.scheduler.has_requests())
        )

    def step(self) -> None:
        """One turn of the engine core's loop: schedule if there is room, then wait if it must."""
        if self.must_wait(self.schedule()):
            self.finish_step()

    def close(self) -> None:
        """Shut the scheduler down, its feed with it."""
        self.scheduler.shutdown()


def _make_scheduler(spec: VirtualEngineSpec) -> Any:
    arguments = {"enable_prefix_caching": False, **spec.flags}
    with _only_errors_logged():
        config = EngineArgs(
            model=str(MODEL),
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            scheduler_cls=spec.scheduler,
            block_size=spec.block_size,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            max_model_len=spec.max_model_len,
            **arguments,
        ).create_engine_config()
    config.cache_config.num_gpu_blocks = spec.num_gpu_blocks
    # As on a GPU: vLLM's CPU platform turns the overlap off for its own forward pass.
    config.scheduler_config.async_scheduling = spec.asynchronous
    scheduler_class: Any = config.scheduler_config.get_scheduler_cls()
    return scheduler_class(
        config,
        _kv_cache_config(spec),
        StructuredOutputManager(config),
        block_size=spec.block_size,
        log_stats=False,
    )


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """vLLM tells each configuration at length; whoever makes a hundred engines would see nothing else.

    Levels of its loggers would not do: the first engine sets them all anew.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _kv_cache_config(spec: VirtualEngineSpec) -> KVCacheConfig:
    attention = FullAttentionSpec(
        block_size=spec.block_size, num_kv_heads=32, head_size=128, dtype=torch.float16
    )
    return KVCacheConfig(
        num_blocks=spec.num_gpu_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], attention)],
    )


def _block_hasher(scheduler: Any) -> Any:
    if not scheduler.cache_config.enable_prefix_caching:
        return None
    hash_function = get_hash_fn_by_name(scheduler.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_function)
    return get_request_block_hasher(scheduler.block_size, hash_function)
