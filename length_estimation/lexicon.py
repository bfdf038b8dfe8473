"""Cheap lexical features of a prompt: a row of numbers, and hashed words and word pairs.

Reads at most some 1,600 characters and 160 words, so it takes about the same time for every prompt.
Any language: words are what Unicode calls letters. Changing anything here changes what saved models
mean; ``VERSION`` tells them apart.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Final
from zlib import crc32

from length_estimation.prompt_text import PromptText

VERSION: Final = 1
BUCKETS: Final = 2**14
"""Hashed words share this many weights."""
_WORDS_AT_START: Final = 110
_WORDS_AT_END: Final = 50
_PAIRS: Final = 40
"""Word pairs are taken from so many first words."""
_CAPITAL: Final = re.compile(r"[A-Z]")
_WORD: Final = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")

_CUE_TEXT: Final = """
    write list explain code function python essay story poem article blog email letter table json sql html
    summarize summary translate classify rewrite edit correct compare calculate solve plan script step steps
    detail detailed briefly brief short long sentence sentences word words paragraph paragraphs example
    examples describe generate create name names give what how why who when is yes no true false one only
    following output input roleplay character dialogue think
"""
_CUES: Final = tuple(_CUE_TEXT.split())
_SIGNS: Final = ("?", "`", ",", ":", "\n", '"', "(", "=", "-", "*")

COLUMNS: Final = 18 + len(_SIGNS) + len(_CUES)


def words_of(text: PromptText) -> list[str]:
    """Words, numbers and signs in lower case; of a long text, those at its ends."""
    words = _WORD.findall(text.text.lower())
    if len(words) <= _WORDS_AT_START + _WORDS_AT_END:
        return words
    return words[:_WORDS_AT_START] + words[-_WORDS_AT_END:]


def numbers_of(
    text: PromptText, words: list[str], prompt_tokens: int, temperature: float | None
) -> list[float]:
    """A row of COLUMNS numbers."""
    seen = text.text
    size = len(seen) + 1
    distinct = set(words)
    asked = [int(word) for word in distinct if word.isascii() and word.isdigit() and len(word) < 6]
    ending = seen.rstrip()[-1:]
    row = [
        math.log1p(text.characters),
        math.log1p(prompt_tokens),
        math.log1p(len(words)),
        len(distinct) / (len(words) + 1),
        sum(map(len, distinct)) / (len(distinct) + 1),
        math.log1p(max(asked, default=0)),
        math.log1p(min(asked, default=0)),
        float(len(asked)),
        (len(seen.encode("utf-8", "surrogatepass")) - len(seen)) / size,
        len(_CAPITAL.findall(seen)) / size,
        float(ending == "?"),
        float(ending == "."),
        float(ending == ":"),
        float("```" in seen),
        math.log1p(text.turns),
        float(text.attachments),
        math.log1p(text.system_characters),
        1.0 if temperature is None else temperature,
    ]
    row += [math.log1p(seen.count(sign)) for sign in _SIGNS]
    row += [float(cue in distinct) for cue in _CUES]
    return row


def hashed_words(words: list[str], model: str) -> list[int]:
    """Buckets of words, of pairs of the first ones, of the first three by place, and of the model."""
    keys = dict.fromkeys(words)  # a set that keeps its order, so that sums are the same in every process
    keys.update(dict.fromkeys(map(" ".join, pairwise(words[:_PAIRS]))))
    keys.update(dict.fromkeys(f"{place}^{word}" for place, word in enumerate(words[:3])))
    keys[f"model={model}"] = None
    return [crc32(key.encode("utf-8", "surrogatepass")) % BUCKETS for key in keys]
