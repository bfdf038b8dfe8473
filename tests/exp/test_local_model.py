"""Model folders made without a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from block.errors import ConfigError
from exp import local_model
from exp.local_model import main, make_local_model

TEXT = "Please explain, in one page, how a for-loop differs from a while-loop: é 漢字 🙂\n"


def test_the_tokenizer_fits_the_models_config(llama_model: Path) -> None:
    config = json.loads((llama_model / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(llama_model)
    assert 10_000 < len(tokenizer) <= config["vocab_size"]
    for name in ("pad", "bos", "eos"):
        assert getattr(tokenizer, f"{name}_token_id") == config[f"{name}_token_id"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_the_chat_template_names_the_speakers(llama_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_model)
    chat = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "user: hello\nassistant:"


def test_plain_tokenizers_count_the_same(llama_model: Path) -> None:
    fast = AutoTokenizer.from_pretrained(llama_model)
    plain = Tokenizer.from_file(str(llama_model / "tokenizer.json"))
    assert plain.encode(TEXT).ids == fast.encode(TEXT)


def test_the_tiny_model_has_weights_of_its_config(tiny_model: Path) -> None:
    size = (tiny_model / "model.safetensors").stat().st_size
    assert 4 * 3_500_000 < size < 4 * 5_000_000


def test_a_folder_that_is_there_is_left_alone(llama_model: Path) -> None:
    made_s = (llama_model / "tokenizer.json").stat().st_mtime_ns
    make_local_model("llama-2-7b", llama_model)
    assert (llama_model / "tokenizer.json").stat().st_mtime_ns == made_s


def test_an_outdated_folder_is_replaced_whole_and_equal(llama_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "rubbish").touch()
    make_local_model("llama-2-7b", out)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in llama_model.iterdir())
    assert (out / "tokenizer.json").read_bytes() == (llama_model / "tokenizer.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(local_model, "_save_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        make_local_model("llama-2-7b", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"known here: .*llama-2-7b, .*tiny-llama"):
        make_local_model("gpt-5", tmp_path / "model")
    assert main(["gpt-5", "--out", str(tmp_path / "model")]) == 1
    assert "gpt-5" in capsys.readouterr().err
