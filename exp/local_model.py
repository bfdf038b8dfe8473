"""Model folders that vLLM loads without reaching any model hub: dimensions, a tokenizer, perhaps weights.

The tokenizer is a byte-level BPE trained on the Python standard library's own documentation, so that
the same Python makes the same tokenizer everywhere. Text it encodes is therefore split a little more
finely than a real model's tokenizer would. Weights, where made, are random: they cost what real ones
cost and say nothing sensible.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from block.errors import BlockError, ConfigError

RECIPE = 1
"""Raised when the same config.json would give another folder."""

CONFIG_ROOT = Path(__file__).resolve().parent.parent / "config" / "models"
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
"""In the order of their ids, which every config.json states as pad 0, bos 1, eos 2."""
WITH_WEIGHTS = frozenset({"tiny-llama", "small-llama"})
CORPUS_MODULES = (
    "argparse",
    "asyncio.tasks",
    "collections",
    "configparser",
    "csv",
    "datetime",
    "decimal",
    "difflib",
    "email.message",
    "functools",
    "http.client",
    "inspect",
    "logging",
    "mailbox",
    "pathlib",
    "pickle",
    "random",
    "shutil",
    "statistics",
    "subprocess",
    "textwrap",
    "threading",
    "turtle",
    "typing",
    "unittest.mock",
    "urllib.request",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_local_model(name: str, out: Path) -> Path:
    """Make the folder ``out`` for ``config/models/<name>``; does nothing if it is already there.

    The folder appears whole or not at all. Raises ConfigError for an unknown name.
    """
    source = _config_path(name)
    stamp = _stamp(source)
    if _is_current(out, stamp):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        _fill(folder, source, with_weights=name in WITH_WEIGHTS)
        (folder / "made-by.json").write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        _move_into_place(folder, out, Path(scratch) / "previous", stamp)
    return out


def _config_path(name: str) -> Path:
    source = CONFIG_ROOT / name / "config.json"
    if not source.is_file():
        known = sorted(path.parent.name for path in CONFIG_ROOT.glob("*/config.json"))
        raise ConfigError(f"model {name!r}: no {source}; known here: {', '.join(known)}")
    return source


def _stamp(source: Path) -> dict[str, Any]:
    return {"recipe": RECIPE, "config_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}


def _is_current(folder: Path, stamp: dict[str, Any]) -> bool:
    try:
        made = json.loads((folder / "made-by.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(made == stamp)


def _move_into_place(folder: Path, out: Path, previous: Path, stamp: dict[str, Any]) -> None:
    if out.exists():
        out.rename(previous)
    try:
        folder.rename(out)
    except OSError:
        # Another process made the same folder meanwhile; its copy is as good as ours.
        if not _is_current(out, stamp):
            raise


def _fill(folder: Path, source: Path, *, with_weights: bool) -> None:
    config = json.loads(source.read_text(encoding="utf-8"))
    shutil.copyfile(source, folder / "config.json")
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    _save_tokenizer(folder, vocab_size=config["vocab_size"], max_length=config["max_position_embeddings"])
    if with_weights:
        _save_random_weights(folder)


def _save_tokenizer(folder: Path, vocab_size: int, max_length: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    pad, bos, eos = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def _corpus() -> Iterator[str]:
    for _, text in sorted(topics.items()):
        yield text
    for name in CORPUS_MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            # Some distributions of Python leave out modules such as turtle.
            continue
        yield from _docstrings(Path(spec.origin))


def _docstrings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def _save_random_weights(folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder, safe_serialization=True)


def main(arguments: list[str] | None = None) -> int:
    """``python -m exp.local_model NAME --out FOLDER``; 0 when the folder is there, 1 with one line if not."""
    parser = argparse.ArgumentParser(
        prog="python -m exp.local_model",
        description="Make a model folder that vLLM loads without a model hub.",
        epilog="example: python -m exp.local_model llama-2-7b --out .cache/models/llama-2-7b",
    )
    parser.add_argument("name", help="a folder of config/models")
    parser.add_argument("--out", type=Path, required=True, help="where the model folder goes")
    options = parser.parse_args(arguments)
    try:
        print(make_local_model(options.name, options.out))
    except (BlockError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
