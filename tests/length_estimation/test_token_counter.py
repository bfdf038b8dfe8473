"""The token counter: exact where it can be, quick always, and never raises."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from block.errors import ConfigError
from length_estimation.token_counter import (
    TOKENS_PER_ATTACHMENT,
    TOKENS_PER_CHAT,
    TOKENS_PER_MESSAGE,
    TokenCounter,
    make_token_counter,
)

SOURCE = Path(__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=["file", "bytes"])
def counter(request, tokenizer_path) -> TokenCounter:
    return make_token_counter(tokenizer_path if request.param == "file" else None)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
messages = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": json_values, "content": json_values, "tool_calls": json_values}
    )
)
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@given(raw=st.binary(max_size=300))
def test_any_bytes_get_a_count(counter, raw):
    assert counter.prompt(raw) >= 0
    assert counter.messages(raw, raw) >= 0


@SHARED
@given(value=json_values | messages)
def test_any_json_gets_a_count(counter, value):
    raw = json.dumps(value).encode()  # lone surrogates and all
    assert counter.prompt(raw) >= 0
    assert counter.messages(raw) >= 0


@SHARED
@given(ids=st.lists(st.integers(0, 32_000)), lists=st.lists(st.lists(st.integers(0, 32_000))))
def test_token_ids_are_counted_exactly(counter, ids, lists):
    assert counter.prompt(json.dumps(ids).encode()) == len(ids)
    assert counter.prompt(json.dumps(lists).encode()) == sum(map(len, lists))


def test_texts_are_counted_by_the_models_tokenizer(tokenizer_path):
    counter = make_token_counter(tokenizer_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    text = "def test_any_json_gets_a_count(counter, value): é"
    assert counter.prompt(json.dumps(text).encode()) == len(tokenizer.encode(text).ids)
    assert counter.prompt(json.dumps([text, text]).encode()) == 2 * len(tokenizer.encode(text).ids)


def test_chats_cost_their_texts_and_the_templates_constants(tokenizer_path):
    counter = make_token_counter(tokenizer_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    text = "import time"
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": "data:" + "A" * 9999}},
    ]
    chat = [
        {"role": "user", "content": text},
        {"role": "user", "content": parts},
        {"role": "x", "content": None},
    ]
    words = len(tokenizer.encode(text, add_special_tokens=False).ids)
    expected = 2 * words + TOKENS_PER_ATTACHMENT + 3 * TOKENS_PER_MESSAGE + TOKENS_PER_CHAT
    assert counter.messages(json.dumps(chat).encode()) == expected
    assert counter.messages(json.dumps(chat).encode(), b'[{"type": "function"}]') > expected


def test_bytes_are_counted_where_there_is_no_tokenizer():
    counter = make_token_counter(None)
    assert counter.prompt(json.dumps("abcd" * 100).encode()) == 101
    assert counter.prompt('"éééé"'.encode()) == 3


def test_long_texts_are_estimated_well_and_quickly(tokenizer_path):
    """A shared machine may stall once; the best of five shows the cost."""
    counter = make_token_counter(tokenizer_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    text = SOURCE * 8
    exact = len(tokenizer.encode(text).ids)
    for raw in (
        json.dumps(text).encode(),
        json.dumps([text[i : i + 9] for i in range(0, len(text), 9)]).encode(),
    ):
        took_s = []
        for _ in range(5):
            started_s = time.perf_counter()
            counted = counter.prompt(raw)
            took_s.append(time.perf_counter() - started_s)
        bos = counted - counter.prompt(json.dumps(text).encode())
        assert abs(counted - bos - exact) < 0.15 * exact
        assert min(took_s) < 0.006


@pytest.mark.parametrize("content", [None, "not a tokenizer", "{}"])
def test_a_bad_tokenizer_file_is_a_config_error(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer = .*tokenizer\.json"):
        make_token_counter(path)
