"""A fleet that nobody has: a GPU and a model by name, worked out from datasheets, as a cluster's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from block.config import ClusterConfig, load_config
from block.errors import ConfigError
from block.latency.modelled_pack import blocks_that_fit
from block.latency.roofline import RooflineLatency

_CONFIG = Path(__file__).resolve().parents[2] / "config"
_CLUSTER = _CONFIG / "cluster" / "local.yaml"
_USUAL = {"a100": "a100-80-sxm", "h100": "h100-sxm"}
"""What is meant where a name leaves open which kind of it."""


@dataclass(frozen=True, slots=True)
class PlannedFleet:
    """Instances of one kind."""

    gpu: str
    """A file of config/gpus; ``a100`` and ``h100`` are the usual ones of these."""
    model: str
    """A folder of config/models."""
    max_num_seqs: int = 48
    max_num_batched_tokens: int = 512
    max_model_len: int = 4096

    @property
    def gpu_name(self) -> str:
        """The file's name."""
        return _USUAL.get(self.gpu, self.gpu)

    def cluster(self, policy: str, scenarios: int, scratch: Path) -> ClusterConfig:
        """One instance under a policy; the step-time model it names is written into ``scratch``.

        Raises ConfigError for an unknown GPU or model, or one that does not fit the other.
        """
        latency = self._latency_file(scratch)
        settings = {
            "instances": 1,
            "engine.latency": str(latency),
            "engine.num_gpu_blocks": 2,
            "engine.max_num_seqs": self.max_num_seqs,
            "engine.max_num_batched_tokens": self.max_num_batched_tokens,
            "engine.max_model_len": self.max_model_len,
            "scheduler.policy": policy,
            "scheduler.scenarios": scenarios,
            "scheduler.tokenizer": None,
        }
        config = load_config(_CLUSTER, ClusterConfig, settings)
        blocks = blocks_that_fit(RooflineLatency.load(latency), config.engine.limits())
        if blocks * config.engine.block_size < self.max_model_len:
            raise ConfigError(
                f"--max-model-len {self.max_model_len}: a {self.gpu_name} has room for {blocks} KV blocks of "
                f"{config.engine.block_size} beside {self.model}; lower it"
            )
        return config.model_copy(
            update={"engine": config.engine.model_copy(update={"num_gpu_blocks": blocks})}
        )

    def _latency_file(self, scratch: Path) -> Path:
        gpu = _CONFIG / "gpus" / f"{self.gpu_name}.yaml"
        model = _CONFIG / "models" / self.model / "config.json"
        for option, path, folder in (("--gpu", gpu, gpu.parent), ("--model", model, model.parents[1])):
            if not path.is_file():
                known = sorted(
                    {*(one.stem for one in folder.iterdir()), *(_USUAL if option == "--gpu" else ())}
                )
                raise ConfigError(f"{option} {path}: unknown; known here: {', '.join(known)}")
        path = scratch.resolve() / f"{self.gpu_name}-{self.model}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"kind": "roofline", "gpu": str(gpu), "model": str(model)}))
        return path
