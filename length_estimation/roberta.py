"""``roberta``: quantiles of the length from a trained encoder, run by onnxruntime or by torch.

With an exported ``model.onnx`` in the folder neither torch nor transformers is needed. Made by
``roberta_training``; the network itself is in ``encoder``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from block.errors import ConfigError, PackError, PredictorError
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.model_folder import Card, read_card
from length_estimation.prompt_text import PromptText, read_prompt
from length_estimation.quantiles import LEVELS
from length_estimation.tokenizer_file import read_tokenizer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Network = Callable[[Ints, Ints], Floats]
"""Token ids and mask, both (batch, tokens) -> (batch, 1 + levels): mean and quantiles of log tokens."""

KIND: Final = "roberta"
ONNX: Final = "model.onnx"
INPUT: Final = "input.json"
TOKENIZER: Final = "tokenizer.json"
_TAIL_SHARE: Final = 4
"""Of a text with too many tokens, one part in so many is kept from its end."""
_LONGEST: Final = 21.0
"""Log tokens; e to the power of it is a billion."""


class InputForm(msgspec.Struct, frozen=True):
    """How a prompt becomes the network's input; saved beside the weights."""

    pad_id: int
    most_tokens: int
    levels: tuple[float, ...] = LEVELS
    shifts: tuple[float, ...] = (0.0,) * len(LEVELS)
    """Added to the network's quantiles, so that they covered what was held out in training."""


class PromptEncoding:
    """Prompts to padded token ids."""

    def __init__(self, tokenizer: Tokenizer, form: InputForm) -> None:
        self._tokenizer = tokenizer
        self._form = form

    def ids(self, request: EstimationRequest) -> list[int]:
        """Of one request, at least one and at most ``most_tokens``."""
        text = encoder_text(read_prompt(request.prompt_json), request.model)
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8")).ids
        most = self._form.most_tokens
        if len(ids) > most:
            tail = most // _TAIL_SHARE
            ids = ids[: most - tail] + ids[-tail:]
        return ids or [self._form.pad_id]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
        """Ids and mask, shape (rows, longest)."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._form.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return ids, mask


class RobertaEstimator:
    """Quantiles from a network; also many requests at once."""

    def __init__(self, encoding: PromptEncoding, form: InputForm, network: Network, version: str) -> None:
        self._encoding = encoding
        self._network = network
        self._shifts = np.array(form.shifts)
        self._version = version

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """One request by itself."""
        return self.estimate_all([request])[0]

    def estimate_all(self, requests: Sequence[EstimationRequest]) -> list[LengthEstimate]:
        """In the order of the requests, all in one run of the network."""
        if not requests:
            return []
        ids, mask = self._encoding.padded([self._encoding.ids(request) for request in requests])
        logs = np.minimum(self._network(ids, mask)[:, 1:] + self._shifts, _LONGEST)
        return [
            LengthEstimate.of(LEVELS, row, request.max_tokens, KIND, self._version)
            for request, row in zip(requests, np.exp(logs).tolist(), strict=True)
        ]


def load_roberta(folder: Path, threads: int = 1, *, torch_only: bool = False) -> RobertaEstimator:
    """A trained model's folder: its ONNX form if it was exported, else torch.

    With ``torch_only`` as it was trained, exported or not.
    Raises PackError for a damaged model, ConfigError where neither runtime is installed.
    """
    card = read_card(folder, KIND)
    form = read_form(folder)
    exported = ONNX in card.files and not torch_only
    network = onnx_network(folder / ONNX, threads) if exported else torch_network(folder, threads)
    return RobertaEstimator(
        PromptEncoding(read_tokenizer(folder / TOKENIZER), form), form, network, version_of(card)
    )


def version_of(card: Card) -> str:
    """What estimates carry."""
    return card.model


def read_form(folder: Path) -> InputForm:
    """Raises PackError."""
    try:
        form = msgspec.json.decode((folder / INPUT).read_bytes(), type=InputForm)
    except (OSError, ValueError) as error:
        raise PackError(f"{folder / INPUT}: not an input form ({error}); train the model anew") from error
    if form.levels != LEVELS or len(form.shifts) != len(LEVELS) or form.most_tokens < 8:
        raise PackError(f"{folder / INPUT}: made for other quantiles; train the model anew")
    return form


def onnx_network(path: Path, threads: int) -> Network:
    """Run by onnxruntime on the CPU."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"{path}: needs onnxruntime; install the 'lengths' extra") from error
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        _reraise_unless_onnx(error)
        raise PackError(f"{path}: onnxruntime refuses it ({error}); export the model anew") from error

    def run(ids: Ints, mask: Ints) -> Floats:
        try:
            (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        except Exception as error:
            _reraise_unless_onnx(error)
            raise PredictorError(f"onnxruntime failed: {error}") from error
        return np.asarray(found, dtype=np.float64)

    return run


def _reraise_unless_onnx(error: Exception) -> None:
    """The library's own errors have no common root but the module that they come from."""
    if not type(error).__module__.startswith("onnxruntime"):
        raise error


def torch_network(folder: Path, threads: int) -> Network:
    """Run by torch on the CPU."""
    try:
        import torch

        from length_estimation.encoder import load_regressor
    except ImportError as error:
        raise ConfigError(
            f"{folder}: needs torch and transformers, or {ONNX} (block-length export)"
        ) from error
    torch.set_num_threads(threads)
    regressor = load_regressor(folder)

    def run(ids: Ints, mask: Ints) -> Floats:
        with torch.inference_mode():
            found = regressor(torch.from_numpy(ids), torch.from_numpy(mask))
        return np.asarray(found.double().numpy())

    return run


def encoder_text(text: PromptText, model: str) -> str:
    """What the encoder reads: who will answer, then the prompt."""
    return f"{model}: {text.text}" if model else text.text
