"""Rendezvous hashing (Thaler, Ravishankar, IEEE/ACM ToN 1998): a key's order of preference.

Every copy of the scheduler computes the same order without talking, and when an instance comes or
goes, only the keys that preferred it move.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from global_scheduler.policies.base import Candidate


def preference(key: bytes, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, the one that the key prefers first; their given order does not matter."""
    keyed = blake2b(key, digest_size=8)

    def rank(candidate: Candidate) -> bytes:
        salted = keyed.copy()
        salted.update(b"\0" + candidate.name.encode())
        return salted.digest()

    return sorted(candidates, key=rank)
