"""Examples whose lengths follow from their prompts, and models trained on them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from length_estimation.dataset import Example, read_examples
from length_estimation.features_training import FeaturesOptions
from length_estimation.saved_training import train_and_save_features
from length_estimation.token_counter import make_token_counter

TOPICS = [
    "rivers",
    "clocks",
    "a dragon",
    "the tax code",
    "bread",
    "sorting",
    "Vienna",
    "glass",
    "wolves",
    "tea",
]
TASKS = {
    "Write a long essay about": 400,
    "Name": 8,
    "Explain in detail": 200,
    "Say in one word what you think of": 3,
}


def synthetic_rows(count: int, seed: int) -> list[dict[str, object]]:
    """The task decides the length, with noise; each topic and number makes a prompt of its own."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        task, tokens = draw.choice(list(TASKS.items()))
        length = max(1, round(tokens * draw.lognormvariate(0, 0.2)))
        prompt = f"{task} {draw.choice(TOPICS)}, item {number}."
        model = draw.choice(["small", "large"])
        rows.append({"id": number, "model": model, "prompt": prompt, "response": "word " * (4 * length // 5)})
    return rows


def _cut_every_other(examples: Sequence[Example], limit: int) -> list[Example]:
    made = []
    for number, example in enumerate(examples):
        if number % 2:
            made.append(example)
            continue
        request = structs.replace(example.request, max_tokens=limit)
        tokens = min(example.output_tokens, limit)
        made.append(replace(example, request=request, output_tokens=tokens, cut=tokens == limit))
    return made


@pytest.fixture(scope="session")
def cut_every_other():
    """Factory: the examples, each other one with a limit that cuts it if it is longer."""
    return _cut_every_other


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    lines = [json.dumps(row) for row in synthetic_rows(400, 1)]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def features_folder(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A trained features model."""
    folder = tmp_path_factory.mktemp("models") / "features"
    examples = read_examples(data_folder, make_token_counter(None))
    options = FeaturesOptions(iterations=40)
    train_and_save_features(examples, {"sha256": {}}, folder, options, lambda _what, _share: None)
    return folder


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer with a BOS token, as Llama's has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(Path(__file__).read_text(encoding="utf-8").splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path
