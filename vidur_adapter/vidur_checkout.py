"""Vidur's own classes, from a checkout of microsoft/vidur or of a fork. The only reader of its internals."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from block.errors import ConfigError
from block.types import EngineLimits

_DEVICE = "a100"
"""Vidur plans memory for a device it knows; the number of blocks is given, so it does not bind."""


@dataclass(frozen=True)
class VidurCheckout:
    """Imported modules."""

    config: Any
    entities: Any
    sarathi: Any

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises ConfigError if it is no checkout, or lacks its own dependencies."""
        if not (folder / "vidur" / "scheduler").is_dir():
            raise ConfigError(f"{folder}: no Vidur checkout; it must contain vidur/scheduler")
        sys.path.insert(0, str(folder.resolve()))
        try:
            return cls(
                import_module("vidur.config"),
                import_module("vidur.entities"),
                import_module("vidur.scheduler.replica_scheduler.sarathi_replica_scheduler"),
            )
        except ImportError as error:
            raise ConfigError(
                f"{folder}: Vidur cannot be imported ({error}); "
                f"install {folder / 'requirements.txt'} beside it"
            ) from error
        finally:
            sys.path.remove(str(folder.resolve()))

    def scheduler(self, limits: EngineLimits) -> Any:
        """A Sarathi scheduler of one replica that has these limits and holds nothing."""
        replica = self.config.ReplicaConfig(device=_DEVICE, memory_margin_fraction=0.1)
        generator = self.config.TraceRequestGeneratorConfig(max_tokens=1024)
        settings = self.config.SarathiSchedulerConfig(
            batch_size_cap=limits.max_num_seqs,
            block_size=limits.block_size,
            num_blocks=limits.total_blocks,
            watermark_blocks_fraction=limits.watermark_blocks / limits.total_blocks,
            chunk_size=limits.max_num_batched_tokens,
        )
        return self.sarathi.SarathiReplicaScheduler(
            replica_config=replica,
            replica_scheduler_config=settings,
            request_generator_config=generator,
            replica=self.entities.Replica(replica, generator),
            num_stages=1,
            execution_time_predictor=None,
        )

    def request(self, arrival_s: float, prompt_tokens: int, output_tokens: int, processed: int = 0) -> Any:
        """One that waits; ``processed`` counts tokens as Vidur does, a sampled one at once."""
        return self.entities.Request(arrival_s, prompt_tokens, output_tokens, processed)
