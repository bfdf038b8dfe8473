from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from block.errors import ConfigError
from exp.prompt import PromptWriter


@pytest.mark.parametrize("tokens", [1, 2, 35, 2863])
def test_prompts_have_the_wanted_number_of_tokens(tokenizer_file: Path, tokens: int) -> None:
    text = PromptWriter(tokenizer_file).write(tokens, seed=7)
    assert len(Tokenizer.from_file(str(tokenizer_file)).encode(text).ids) == tokens


def test_prompts_differ_by_seed_only(tokenizer_file: Path) -> None:
    writer = PromptWriter(tokenizer_file)
    assert writer.write(50, seed=1) == PromptWriter(tokenizer_file).write(50, seed=1)
    assert writer.write(50, seed=1) != writer.write(50, seed=2)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: no tokenizer there"):
        PromptWriter(tmp_path / "tokenizer.json")
