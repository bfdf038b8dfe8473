"""The same what-if on Vidur's own classes: its Sarathi scheduler in a bare loop in virtual time.

Every step takes the same time: Vidur's predictor, whose forests take minutes to train, is left out. So
this is less than what Vidur's what-if costs, and the ratio a lower bound.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from block.errors import ConfigError
from exp.bench_state import BLOCK_SIZE, NEWCOMER, PROMPT_TOKENS, WAITING_OUTPUT_TOKENS, BenchState

_STEP_S = 0.033
_GENERATED_TOKENS = 100
"""Response tokens that the running requests already have."""


class VidurWhatIf:
    """Asks a Vidur checkout; raises ConfigError if it is none or lacks its own dependencies."""

    described = "Sarathi scheduler, bare loop, constant step time"

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "vidur" / "scheduler").is_dir():
            raise ConfigError(f"--vidur {checkout}: no Vidur checkout; it must contain vidur/scheduler")
        sys.path.insert(0, str(checkout.resolve()))
        try:
            self._config: Any = import_module("vidur.config")
            self._entities: Any = import_module("vidur.entities")
            self._schedulers: Any = import_module(
                "vidur.scheduler.replica_scheduler.sarathi_replica_scheduler"
            )
        except ImportError as error:
            raise ConfigError(
                f"--vidur {checkout}: cannot be imported ({error}); "
                f"install {checkout / 'requirements.txt'} beside it"
            ) from error
        finally:
            sys.path.remove(str(checkout.resolve()))

    def ask(self, state: BenchState) -> float:
        """Seconds until the newcomer's response ends; stops there, and runs no baseline."""
        scheduler = self._scheduler(state)
        for _ in range(state.running):
            self._run(scheduler, state.tokens_left)
        for index in range(state.waiting):
            scheduler.add_request(self._request(index, PROMPT_TOKENS, WAITING_OUTPUT_TOKENS))
        newcomer = self._request(state.waiting, NEWCOMER.prompt_tokens, NEWCOMER.output_tokens)
        scheduler.add_request(newcomer)
        now_s = 0.0
        while not newcomer.completed:
            (batch,) = scheduler.on_schedule()
            batch.on_schedule(now_s)
            now_s += _STEP_S
            batch.on_batch_end(now_s)
            scheduler.on_batch_end(batch)
        return now_s

    def _run(self, scheduler: Any, tokens_left: int) -> None:
        """Put a decoding request into the scheduler's running set."""
        computed = PROMPT_TOKENS + _GENERATED_TOKENS
        request = self._entities.Request(-1.0, PROMPT_TOKENS, _GENERATED_TOKENS + tokens_left, computed)
        request._is_prefill_complete = request._scheduled = True
        scheduler.allocate(request.id, -(-computed // BLOCK_SIZE))
        scheduler._preempted_requests.append(request)

    def _request(self, index: int, prompt_tokens: int, output_tokens: int) -> Any:
        return self._entities.Request(index * 1e-6, prompt_tokens, output_tokens)

    def _scheduler(self, state: BenchState) -> Any:
        replica = self._config.ReplicaConfig(device="a100", memory_margin_fraction=0.1)
        generator = self._config.TraceRequestGeneratorConfig(max_tokens=1024)
        limits = state.build().limits
        config = self._config.SarathiSchedulerConfig(
            batch_size_cap=limits.max_num_seqs,
            block_size=limits.block_size,
            num_blocks=limits.total_blocks,
            chunk_size=limits.max_num_batched_tokens,
        )
        return self._schedulers.SarathiReplicaScheduler(
            replica_config=replica,
            replica_scheduler_config=config,
            request_generator_config=generator,
            replica=self._entities.Replica(replica, generator),
            num_stages=1,
            execution_time_predictor=None,
        )
