"""The network behind ``roberta``: a transformers encoder with a regression head and quantile heads.

Imports torch and transformers, so nothing imports this before it is needed. Encoders come from a local
folder, from the model hub, or are made here with random weights; only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoTokenizer, RobertaConfig

from block.errors import ConfigError, PackError
from length_estimation.quantiles import LEVELS

FRESH: Final[Mapping[str, tuple[int, int, int]]] = {
    "tiny": (2, 64, 2),
    "small": (4, 256, 4),
    "base": (12, 768, 12),
}
"""Encoders with random weights by name: layers, width, heads. ``base`` has RoBERTa-base's dimensions."""
_VOCABULARY: Final = 8000
_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>")
_UNUSED: Final = "pooler."
"""What the regressor does not look at, and most encoders' files do not have."""


class LengthRegressor(torch.nn.Module):  # type: ignore[misc]
    """Token ids -> mean and quantiles of the logarithm of the response's tokens."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.dense = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, 1 + len(LEVELS))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """(batch, tokens) twice -> (batch, 1 + levels): the mean, then the quantiles in rising order."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        raw = self.head(torch.tanh(self.dense(pooled)))
        steps = torch.nn.functional.softplus(raw[:, 2:]).cumsum(1)
        quantiles = torch.cat((raw[:, 1:2], raw[:, 1:2] + steps), 1)
        return self.centre + self.spread * torch.cat((raw[:, :1], quantiles), 1)


@dataclass(frozen=True, slots=True)
class Encoder:
    """An untrained regressor and the tokenizer that goes with it."""

    regressor: LengthRegressor
    tokenizer: Tokenizer
    pad_id: int
    most_tokens: int
    """Longest input that the encoder's positions allow."""


def open_encoder(name: str, texts: Iterable[str], seed: int, layers: int | None = None) -> Encoder:
    """By name: ``tiny``, ``small`` or ``base`` made here, else a local folder or a hub id.

    ``texts`` train the tokenizer of an encoder made here. Of its layers the first ``layers`` are kept.
    Raises ConfigError if it cannot be had, whole, or has fewer layers.
    """
    torch.manual_seed(seed)
    if name in FRESH:
        return _fresh(name, texts, layers)
    try:
        encoder = _pretrained(name, layers)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
    except (OSError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"encoder = {name!r}: cannot be had ({reason}); name a folder with config.json, "
            f"model.safetensors and tokenizer.json, or one of {', '.join(FRESH)}, made here"
        ) from error
    config = encoder.config
    pad_id = 0 if config.pad_token_id is None else int(config.pad_token_id)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Encoder(LengthRegressor(encoder), tokenizer, pad_id, _positions(config, pad_id))


def save_regressor(regressor: LengthRegressor, folder: Path) -> list[str]:
    """Weights and dimensions; returns the names of the files."""
    save_weights(regressor.state_dict(), folder / "model.safetensors")
    (folder / "encoder.json").write_text(regressor.encoder.config.to_json_string(), encoding="utf-8")
    return ["model.safetensors", "encoder.json"]


def load_regressor(folder: Path) -> LengthRegressor:
    """As saved, ready to evaluate. Raises PackError."""
    try:
        config = AutoConfig.for_model(**_config_of(folder / "encoder.json"))
        regressor = LengthRegressor(AutoModel.from_config(config, attn_implementation="eager"))
        regressor.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise PackError(f"{folder}: its weights do not fit its dimensions ({error})") from error
    regressor.eval()
    return regressor


def save_weights(state: Mapping[str, Any], path: Path) -> None:
    """As safetensors; shared or strided tensors are written out."""
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}, path)


def _config_of(path: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _pretrained(name: str, kept: int | None) -> Any:
    """The encoder with all its weights: what a file lacks, transformers would fill up with chance."""
    config = AutoConfig.from_pretrained(name)
    config.num_hidden_layers = _kept(name, kept, config.num_hidden_layers)
    encoder, found = AutoModel.from_pretrained(
        name, config=config, use_safetensors=True, attn_implementation="eager", output_loading_info=True
    )
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise ValueError(f"its weights lack {missing[0]}, and {len(missing) - 1} more")
    return encoder


def _kept(name: str, wanted: int | None, layers: int) -> int:
    """How many layers; all if it is not said."""
    if wanted is not None and wanted > layers:
        raise ConfigError(f"--layers {wanted}: the encoder {name!r} has {layers}; name at most so many")
    return wanted or layers


def _fresh(name: str, texts: Iterable[str], kept: int | None) -> Encoder:
    layers, width, heads = FRESH[name]
    layers = _kept(name, kept, layers)
    tokenizer = _train_tokenizer(texts)
    pad_id = int(tokenizer.token_to_id("<pad>") or 0)
    config = RobertaConfig(
        vocab_size=max(tokenizer.get_vocab_size(), len(_SPECIAL)),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=pad_id,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
    )
    encoder = AutoModel.from_config(config, attn_implementation="eager")
    return Encoder(LengthRegressor(encoder), tokenizer, pad_id, _positions(config, pad_id))


def _train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE, as RoBERTa's: every text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in _SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, ids[token]) for token in ("<s>", "</s>")]
    )
    return tokenizer


def _positions(config: Any, pad_id: int) -> int:
    """RoBERTa counts positions from behind its padding id."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    return (
        positions - pad_id - 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else positions
    )
