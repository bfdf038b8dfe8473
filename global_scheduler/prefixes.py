"""Who has seen a prompt's beginning: digests of leading blocks, and a bounded record of them.

Works on the prompt's JSON bytes, not on tokens: a conversation's next turn begins with the bytes of the
previous one, and tokenizing costs more than all else here. A hint: the engine's cache may have dropped
what is recorded, or hold what other schedulers sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b

BLOCK_BYTES = 512
"""About 130 tokens of English: eight of vLLM's blocks."""
MAX_BLOCKS = 64
"""Beyond 32 KiB two prompts that are equal so far are taken for equal."""
RECORD_DIGESTS = 8192
"""Kept per instance: a million tokens, 1 MB at most."""


def prefix_digests(context: bytes, prompt: bytes) -> tuple[int, ...]:
    """Digests of the first 1, 2, 3... whole blocks of ``prompt``, 64 bits each.

    ``context`` is what else the engine's cache keys on, such as the model and the tools. The JSON
    list's closing bracket is not part of the prompt: the next turn has a comma there.
    """
    blocks = min((len(prompt) - 1) // BLOCK_BYTES, MAX_BLOCKS)
    digests = []
    last = blake2b(context, digest_size=8).digest()
    for start in range(0, blocks * BLOCK_BYTES, BLOCK_BYTES):
        last = blake2b(last + prompt[start : start + BLOCK_BYTES], digest_size=8).digest()
        digests.append(int.from_bytes(last, "little"))
    return tuple(digests)


class PrefixRecord:
    """The digests last sent to one instance; the least recent are forgotten first."""

    def __init__(self, capacity: int = RECORD_DIGESTS) -> None:
        self._capacity = capacity
        self._seen: dict[int, None] = {}
        """Least recent first."""

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, digests: Sequence[int]) -> None:
        """A prompt with these was sent there. The longest counts as the least recent of them.

        So whatever is kept, its beginnings are kept too: ``matched_blocks`` relies on that.
        """
        for digest in reversed(digests):
            self._seen.pop(digest, None)
            self._seen[digest] = None
        while len(self._seen) > self._capacity:
            del self._seen[next(iter(self._seen))]

    def matched_blocks(self, digests: Sequence[int]) -> int:
        """How many leading blocks were seen."""
        return bisect_left(digests, True, key=lambda digest: digest not in self._seen)
