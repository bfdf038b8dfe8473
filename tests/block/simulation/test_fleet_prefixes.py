"""Blocks that requests share get the same numbers, whatever the sizes of hashes and blocks."""

from __future__ import annotations

import numpy as np
import pytest

from block.simulation.fleet_prefixes import SharedBlocks

HASHES = [(1, 2, 3), (1, 2, 9), (1,), (7, 2), ()]
PROMPTS = np.array([96, 96, 40, 64, 64])


def _chains(block_size: int) -> list[list[int]]:
    shared = SharedBlocks.of(HASHES, 32, PROMPTS, block_size)
    return [shared[request].tolist() for request in range(len(HASHES))]


def test_what_only_one_request_has_is_not_numbered() -> None:
    first, second, third, fourth, fifth = _chains(16)
    assert first == second == [0, 1, 2, 3]
    assert third == first[:2]  # its hash covers no more, though its prompt goes on
    assert fourth == fifth == []  # the same hash behind another beginning is another block


@pytest.mark.parametrize(("block_size", "blocks"), [(8, 8), (32, 2), (48, 1), (64, 1), (128, 0)])
def test_a_block_is_shared_if_hashes_cover_all_of_it(block_size: int, blocks: int) -> None:
    first, second, *_ = _chains(block_size)
    assert first == second
    assert len(first) == blocks


def test_without_hashes_there_is_nothing_to_share() -> None:
    shared = SharedBlocks.of((), 16, PROMPTS, 16)
    assert shared[3].size == shared.count == shared.longest == 0
