"""Prompts as text of a wanted length in tokens, from a tokenizer's own words.

For a byte-level BPE tokenizer the length is exact, chat template aside; for others it is close.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from block.errors import ConfigError
from exp.workload import HASH_TOKENS, TraceRequest

_WORD = re.compile(r" [a-z]{2,12}")
_FEWEST_WORDS = 50


class PromptWriter:
    """Writes prompts; the same seed gives the same text."""

    def __init__(self, tokenizer: Path) -> None:
        self._words = _words(tokenizer)

    def write(self, tokens: int, seed: int | str) -> str:
        """Text of about ``tokens`` tokens that shares no prefix with other seeds' texts."""
        return "".join(random.Random(seed).choices(self._words, k=tokens))

    def prompt_for(self, request: TraceRequest, seed: int) -> str:
        """Text as long as the request's prompt; its leading blocks are alike where their hashes are."""
        covered = min(len(request.block_hashes) * HASH_TOKENS, request.prompt_tokens)
        # The last block may be a part of one; what follows the hashed blocks is the request's own.
        shared = "".join(self.write(HASH_TOKENS, f"block {hash_}") for hash_ in request.block_hashes)
        words = shared.split(" ")[1 : covered + 1]
        return "".join(f" {word}" for word in words) + self.write(request.prompt_tokens - covered, seed)


def _words(path: Path) -> list[str]:
    """Lower-case words with a leading space that are one token each."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ConfigError(f"{path}: no tokenizer there; make the model folder first")
    tokenizer = Tokenizer.from_file(str(path))
    texts = [tokenizer.decode([id_]) for id_ in range(tokenizer.get_vocab_size())]
    words = [text for text in texts if _WORD.fullmatch(text)]
    single = [word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) == 1]
    if len(single) < _FEWEST_WORDS:
        raise ConfigError(f"{path}: its vocabulary has too few whole words to write prompts with")
    return single
