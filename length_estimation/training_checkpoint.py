"""What an interrupted training of ``roberta`` goes on from: weights, optimizer, and how far it was.

A checkpoint is written beside the last one, which is given up when the new one is whole.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from block.errors import PackError
from length_estimation.encoder import save_weights

_STATE: Final = "state.json"


class TrainingState(msgspec.Struct):
    """How far a run is; its options and its data must be the same when it goes on."""

    options: dict[str, Any]
    data: str
    """Digest of what is trained on."""
    epoch: int = 0
    """Epochs done."""
    best_loss: float = math.inf
    best_epoch: int = 0

    @property
    def files(self) -> tuple[str, str, str]:
        """Weights, optimizer, best weights: new names each time, so that the last ones stay whole."""
        return (
            f"weights-{self.epoch}.safetensors",
            f"optimizer-{self.epoch}.safetensors",
            f"best-{self.best_epoch}.safetensors",
        )


def take_up(
    folder: Path | None, fresh: TrainingState, network: Any, optimizer: Any
) -> tuple[TrainingState, dict[str, Any]]:
    """Give network and optimizer what they had; the state to go on from, and the best weights so far.

    Without a checkpoint that is ``fresh``, and no weights. Raises PackError for a damaged checkpoint or
    another run's.
    """
    if folder is None or not (folder / _STATE).is_file():
        return fresh, {}
    try:
        state = msgspec.json.decode((folder / _STATE).read_bytes(), type=TrainingState)
        if (state.options, state.data) != (fresh.options, fresh.data):
            raise PackError(f"{folder}: a checkpoint of other options or data; remove it or name another")
        weights, kept, best = (load_file(folder / name) for name in state.files)
        network.load_state_dict(weights)
        _restore(optimizer, kept)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise PackError(f"{folder}: damaged checkpoint ({error}); remove it") from error
    return state, best


def keep(
    folder: Path | None, state: TrainingState, network: Any, optimizer: Any, best: dict[str, Any]
) -> None:
    """Write a checkpoint; without a folder there is none."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights, kept, best_weights = state.files
    save_weights(network.state_dict(), folder / weights)
    save_weights(_flattened(optimizer), folder / kept)
    if state.best_epoch == state.epoch:
        save_weights(best, folder / best_weights)
    (folder / "new.json").write_bytes(msgspec.json.encode(state))
    (folder / "new.json").replace(folder / _STATE)
    for old in folder.glob("*.safetensors"):
        if old.name not in state.files:
            old.unlink()


def _flattened(optimizer: Any) -> dict[str, Any]:
    """AdamW's state as tensors by name."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore(optimizer: Any, flat: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
