"""Writes a trained ``roberta`` as ONNX, for fast estimates on a CPU without torch.

The exported network is held against the one it came from before it joins the model's folder.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from block.errors import ConfigError, PackError
from length_estimation.contenders import answers_of
from length_estimation.cut_responses import limits_of
from length_estimation.dataset import read_examples
from length_estimation.estimator import Estimator
from length_estimation.model_folder import Card, check_counting, read_card, with_files
from length_estimation.roberta import (
    INPUT,
    KIND,
    ONNX,
    Floats,
    Ints,
    load_roberta,
    onnx_network,
    read_form,
)
from length_estimation.scores import Scores
from length_estimation.split import groups_of, held_out
from length_estimation.token_counter import make_token_counter

_OPSET: Final = 17
_TOLERANCE: Final = 2e-3
"""Of log tokens, for 32-bit weights: a fifth of a percent."""
_COMPARED: Final = ("mae", "pinball", "coverage80", "kendall_tau")


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it."""

    card: Card
    worst: float
    """Largest difference of log tokens between torch and ONNX over random inputs."""
    size_bytes: int
    compared: dict[str, Any] | None
    """Rows, and scores of the model as trained and as exported; None without data."""


def export(
    folder: Path,
    *,
    int8: bool = False,
    most_tokens: int | None = None,
    data: Sequence[Path] = (),
    tokenizer: Path | None = None,
) -> Exported:
    """Add ``model.onnx``; ``int8`` halves and halves again the weights, at some loss.

    With ``most_tokens`` the model reads no more of a prompt from now on. ``data`` says what both cost.
    Raises PackError for a damaged model, or if the two forms disagree (with 8-bit weights they do,
    somewhat: then the difference is only reported), ConfigError for more tokens than it reads, or for
    ``data`` counted by another ``tokenizer`` than in training.
    """
    card = read_card(folder, KIND)
    form = read_form(folder)
    most = most_tokens or form.most_tokens
    if most > form.most_tokens:
        raise ConfigError(f"--most-tokens {most}: the model reads {form.most_tokens} at most; name fewer")
    if data:
        check_counting(folder, tokenizer)
    exam = _Exam(data, tokenizer, int(card.settings.get("seed", 0))) if data else None
    before = None if exam is None else exam.scores(load_roberta(folder, torch_only=True))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path, worst = _checked(folder, Path(scratch) / ONNX, int8)
        path.replace(folder / ONNX)
    (folder / INPUT).write_bytes(msgspec.json.encode(msgspec.structs.replace(form, most_tokens=most)))
    settings = {"export": {"int8": int8, "most_tokens": most}}
    metrics = {"export": {"worst_log_tokens": worst}}
    card = with_files(folder, (ONNX, INPUT), settings, metrics)
    compared = None
    if exam is not None:
        compared = {"rows": exam.rows, "trained": before, "exported": exam.scores(load_roberta(folder))}
        card = with_files(folder, (), {}, {"export": metrics["export"] | compared})
    return Exported(card, worst, (folder / ONNX).stat().st_size, compared)


class _Exam:
    """What training held out of these examples, if they are those that it had."""

    def __init__(self, data: Sequence[Path], tokenizer: Path | None, seed: int) -> None:
        counter = make_token_counter(tokenizer)
        examples = [example for path in data for example in read_examples(path, counter)]
        groups = groups_of([example.keys for example in examples])
        kept = np.flatnonzero(held_out(groups, seed))
        self._examples = [examples[row] for row in kept]
        self._groups = groups[kept]
        self.rows = len(kept)

    def scores(self, estimator: Estimator) -> dict[str, float]:
        """How good its quantiles are."""
        answers = answers_of(estimator, self._examples, self._groups)
        scores = Scores.of(answers.within(limits_of(self._examples)))
        return {name: round(getattr(scores, name), 4) for name in _COMPARED}


def _checked(folder: Path, path: Path, int8: bool) -> tuple[Path, float]:
    """The exported network, and by how much it is off. Raises PackError if that is too much."""
    import torch

    from length_estimation.encoder import load_regressor

    regressor = load_regressor(folder)
    _write(regressor, path)
    path = _quantized(path) if int8 else path
    worst = 0.0
    for ids, mask in _samples(read_form(folder).pad_id, regressor.encoder.config.vocab_size):
        with torch.inference_mode():
            meant: Floats = regressor(torch.from_numpy(ids), torch.from_numpy(mask)).double().numpy()
        worst = max(worst, float(np.abs(onnx_network(path, 1)(ids, mask) - meant).max()))
    if worst > _TOLERANCE and not int8:
        raise PackError(f"{folder}: the exported network is off by {worst:.4f} log tokens; not kept")
    return path, worst


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
