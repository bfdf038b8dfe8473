"""What one emulated request says: a token sequence fixed by its prompt, its seed and the engine's seed.

The sequence is addressed by position, so that a token sampled anew after a preemption is the same one.
Knows nothing of steps; the executor decides when a position is due.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from block.lengths import LengthDistribution
from block.vllm_plugin.vocabulary import Vocabulary

OUTPUT_LENGTH_FIELD = "block_output_tokens"
"""Name in the OpenAI field ``vllm_xargs`` for a request's recorded output length."""

GOLDEN_RATIO = 0x9E3779B1
"""Of 2**32: multiples of it wander evenly over the vocabulary, with no state to keep."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """One request's voice."""

    vocabulary: Vocabulary
    prompt_tokens: int
    seed: int
    output_tokens: int | None
    """Position (1-based) at which to say EOS; None never does."""
    silent: frozenset[int]
    """Tokens that would stop the request, hence never said by chance."""
    logprobs: int | None
    """How many alternatives the request wants beside each token; None wants no logprobs."""
    prompt_logprobs: int | None
    prompt: tuple[int, ...]
    """Prompt ids, kept only where prompt logprobs are wanted."""

    @classmethod
    def of(
        cls,
        prompt: list[int] | None,
        sampling: Any,
        vocabulary: Vocabulary,
        seed: int,
        lengths: LengthDistribution | None = None,
    ) -> Speaker:
        """From a vLLM request's prompt ids and ``SamplingParams``.

        ``lengths`` serve where the request carries no recorded length.
        """
        start = zlib.crc32(f"{seed}:{sampling.seed}".encode())
        own_seed = zlib.crc32(array("q", prompt or ()).tobytes(), start)
        return cls(
            vocabulary=vocabulary,
            prompt_tokens=len(prompt or ()),
            seed=own_seed,
            output_tokens=_output_length(sampling, own_seed, lengths),
            silent=frozenset(sampling.stop_token_ids or ()),
            logprobs=_alternatives(sampling.num_logprobs, vocabulary),
            prompt_logprobs=_alternatives(sampling.prompt_logprobs, vocabulary),
            prompt=tuple(prompt or ()) if sampling.prompt_logprobs is not None else (),
        )

    def token(self, position: int) -> int:
        """The token at 0-based ``position`` of the response."""
        eos = self.vocabulary.eos
        if eos is not None and self.output_tokens is not None and position + 1 >= self.output_tokens:
            return eos
        words = self.vocabulary.ordinary
        first = ((self.seed + position * GOLDEN_RATIO) & 0xFFFFFFFF) * len(words) >> 32
        if words[first] not in self.silent:
            return words[first]
        return next((word for word in words[first:] + words if word not in self.silent), words[first])

    def allowed_token(self, position: int, bitmask: Any) -> int:
        """The token at ``position`` under a grammar; it ends at its length, or once it may if that is later.

        ``bitmask``: int32 words of one row of vLLM's grammar bitmask; bit i of word w allows token 32w + i.
        """
        bits = np.unpackbits(np.ascontiguousarray(bitmask).view(np.uint8), bitorder="little")
        eos, wanted = self.vocabulary.eos, self.token(position)
        allowed = np.flatnonzero(bits[: self.vocabulary.size])
        if eos is not None and bits[eos]:
            others = allowed[allowed != eos]
            # Without a length of its own a complete text ends here: grammars may go on for ever.
            if self.output_tokens is None or wanted == eos or len(others) == 0:
                return eos
            allowed = others
        if len(allowed) == 0 or bits[wanted]:
            return wanted
        spoken = [token for token in allowed.tolist() if token not in self.silent] or allowed.tolist()
        return int(spoken[(self.seed + position * GOLDEN_RATIO) % len(spoken)])


def _output_length(sampling: Any, seed: int, lengths: LengthDistribution | None) -> int | None:
    if sampling.ignore_eos:
        return None
    value = (sampling.extra_args or {}).get(OUTPUT_LENGTH_FIELD)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        # An engine must not die of one odd value: the request then goes without a recorded length.
        if lengths is None:
            return None
        # The seed's own bits choose tokens; a multiple of it chooses the length apart from them.
        level = ((seed * GOLDEN_RATIO & 0xFFFFFFFF) + 0.5) / 2**32
        value = round(float(lengths.totals(np.array([level]), 0)[0]))
    return max(value, int(sampling.min_tokens))


def _alternatives(wanted: int | None, vocabulary: Vocabulary) -> int | None:
    if wanted is None:
        return None
    return vocabulary.size if wanted < 0 else min(wanted, vocabulary.size)
