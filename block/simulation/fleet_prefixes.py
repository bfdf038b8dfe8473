"""Which leading prompt blocks the requests of a fleet have in common, as caching engines number them.

Equal numbers mean equal prompts up to that block's end. Blocks that only one request has are not numbered:
to an engine they are the request's own, as what it generates. Values only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from block.simulation.memory import Ints


@dataclass(frozen=True, slots=True, eq=False)
class SharedBlocks:
    """The numbers of all requests' shared blocks, one request behind the other."""

    numbers: Ints
    """Dense: they run from 0."""
    starts: Ints
    """(requests + 1,) where each request's begin."""

    @classmethod
    def of(
        cls,
        block_hashes: Sequence[tuple[int, ...]],
        hash_tokens: int,
        prompt_tokens: Ints,
        block_size: int,
    ) -> Self:
        """``block_hashes``: per request, equal leading ones mean equal leading ``hash_tokens`` tokens each;
        none for all, or a tuple for each request. A block is covered if hashes cover all of it.
        """
        prefixes = _prefixes(block_hashes)
        times = Counter(prefix for chain in prefixes for prefix in chain)
        first_of: dict[int, int] = {}
        count = 0
        chains: list[Ints] = []
        for chain, prompt in zip(prefixes, prompt_tokens.tolist(), strict=False):
            pieces = []
            for place, prefix in enumerate(chain):
                if times[prefix] < 2:
                    break
                blocks = _blocks_before(place + 1, hash_tokens, block_size) - _blocks_before(
                    place, hash_tokens, block_size
                )
                if prefix not in first_of:
                    first_of[prefix] = count
                    count += blocks
                pieces.append(np.arange(first_of[prefix], first_of[prefix] + blocks))
            whole = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
            chains.append(whole[: prompt // block_size])
        lengths = [len(chain) for chain in chains] or [0] * len(prompt_tokens)
        numbers = np.concatenate(chains) if chains else np.empty(0, np.int64)
        return cls(numbers.astype(np.int64), np.cumsum([0, *lengths]))

    def __getitem__(self, request: int) -> Ints:
        """Of one request, from its prompt's first block on."""
        chain: Ints = self.numbers[self.starts[request] : self.starts[request + 1]]
        return chain

    @property
    def count(self) -> int:
        """How many blocks there are: all numbers are below."""
        return int(self.numbers.max(initial=-1)) + 1

    @property
    def longest(self) -> int:
        """Blocks of the request with most."""
        return int(np.diff(self.starts).max(initial=0))


def _prefixes(block_hashes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """For each hash a number of everything up to it: hashes alone mean nothing without those before."""
    known: dict[tuple[int, int], int] = {}
    chains = []
    for hashes in block_hashes:
        chain: list[int] = []
        for key in hashes:
            chain.append(known.setdefault((chain[-1] if chain else -1, key), len(known)))
        chains.append(chain)
    return chains


def _blocks_before(place: int, hash_tokens: int, block_size: int) -> int:
    """Whole blocks that the first ``place`` hashes cover."""
    return place * hash_tokens // block_size
