"""What routers of a simulated cluster know of prefix caches: their record of what they sent, or the truth.

A router digests the prompt's bytes, see ``global_scheduler.prefixes``. A trace tells which blocks of tokens
are the same, so a digest here stands for as many tokens as a router's block of English has, and is made of
the trace's hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from block.errors import ConfigError
from block.simulation.fleet import EngineFleet
from block.simulation.memory import Ints
from exp.cluster.router import Router
from exp.workload import HASH_TOKENS
from global_scheduler.prefixes import BLOCK_BYTES, MAX_BLOCKS

_BYTES_PER_TOKEN = 4
DIGEST_TOKENS = BLOCK_BYTES // _BYTES_PER_TOKEN
_PARTS = HASH_TOKENS // DIGEST_TOKENS


def digests_of(block_hashes: Sequence[int], prompt_tokens: int) -> tuple[int, ...]:
    """What a router would digest of such a prompt, each for all up to its end; empty without hashes."""
    most = min((prompt_tokens - 1) // DIGEST_TOKENS, MAX_BLOCKS, len(block_hashes) * _PARTS)
    digests, last = [], b""
    for place in range(most):
        piece = f"{block_hashes[place // _PARTS]}.{place % _PARTS}".encode()
        last = blake2b(last + piece, digest_size=8).digest()
        digests.append(int.from_bytes(last, "little"))
    return tuple(digests)


def _recorded(_: EngineFleet, router: Router, __: int, digests: tuple[int, ...], asked: Ints) -> Ints:
    """As the router has it: engines may have dropped it, or hold what other copies sent."""
    matched = [router.traffic[index].prefixes.matched_blocks(digests) for index in asked.tolist()]
    return np.array(matched, np.int64) * DIGEST_TOKENS


def _exact(fleet: EngineFleet, _: Router, number: int, __: tuple[int, ...], asked: Ints) -> Ints:
    """What engines hold, which no router can know: how much better could it be?"""
    return fleet.cached(number, asked)


def _nothing(_: EngineFleet, __: Router, ___: int, ____: tuple[int, ...], asked: Ints) -> Ints:
    return np.zeros(len(asked), np.int64)


Cached = Callable[[EngineFleet, Router, int, tuple[int, ...], Ints], Ints]
"""(asked,) tokens of a request's prompt that are taken to be cached, at these instances."""

PREFIXES: Mapping[str, Cached] = {"record": _recorded, "exact": _exact, "none": _nothing}


def cached_by(name: str) -> Cached:
    """Raises ConfigError for an unknown name."""
    if name not in PREFIXES:
        raise ConfigError(f"prefixes = {name!r}: unknown; known here: {', '.join(PREFIXES)}")
    return PREFIXES[name]
