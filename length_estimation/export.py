"""Writes a trained ``roberta`` as ONNX, for fast estimates on a CPU without torch.

The exported network is held against the one it came from before it joins the model's folder.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from block.errors import PackError
from length_estimation.model_folder import Card, read_card, with_files
from length_estimation.roberta import KIND, ONNX, Floats, Ints, onnx_network, read_form

_OPSET: Final = 17
_TOLERANCE: Final = 2e-3
"""Of log tokens, for 32-bit weights: a fifth of a percent."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it."""

    card: Card
    worst: float
    """Largest difference of log tokens between torch and ONNX over random inputs."""
    size_bytes: int


def export(folder: Path, *, int8: bool = False) -> Exported:
    """Add ``model.onnx``; ``int8`` halves and halves again the weights, at some loss.

    Raises PackError for a damaged model, or if the two forms disagree (with 8-bit weights they do,
    somewhat: then the difference is only reported).
    """
    import torch

    from length_estimation.encoder import load_regressor

    read_card(folder, KIND)
    regressor = load_regressor(folder)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / ONNX
        _write(regressor, path)
        path = _quantized(path) if int8 else path
        worst = 0.0
        for ids, mask in _samples(read_form(folder).pad_id, regressor.encoder.config.vocab_size):
            with torch.inference_mode():
                meant: Floats = regressor(torch.from_numpy(ids), torch.from_numpy(mask)).double().numpy()
            worst = max(worst, float(np.abs(onnx_network(path, 1)(ids, mask) - meant).max()))
        if worst > _TOLERANCE and not int8:
            raise PackError(f"{folder}: the exported network is off by {worst:.4f} log tokens; not kept")
        path.replace(folder / ONNX)
    return Exported(with_files(folder, (ONNX,)), worst, (folder / ONNX).stat().st_size)


def _write(regressor: Any, path: Path) -> None:
    import torch

    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the shapes it warns about are the dynamic ones below
        torch.onnx.export(
            regressor,
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["log_tokens"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "log_tokens": {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def _quantized(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    small = path.with_name("small.onnx")
    quantize_dynamic(str(path), str(small), weight_type=QuantType.QInt8)
    return small


def _samples(pad_id: int, vocabulary: int) -> list[tuple[Ints, Ints]]:
    """Random inputs of several shapes, with padding."""
    random = np.random.default_rng(0)
    made = []
    for batch, tokens in ((1, 3), (1, 100), (4, 30)):
        ids = random.integers(0, vocabulary, (batch, tokens))
        mask = np.ones((batch, tokens), dtype=np.int64)
        mask[1:, tokens // 2 :] = 0
        made.append((np.where(mask == 1, ids, pad_id).astype(np.int64), mask))
    return made
