"""vLLM's KV block pool, compiled: allocation, release, prefix-cache hits and eviction.

Follows ``vllm/v1/core/block_pool.py`` and ``single_type_kv_cache_manager.py`` (0.32) for one group of
full attention. Without prefix caching blocks are interchangeable and only their number is kept.
"""

from __future__ import annotations

from block.simulation.arrays import (
    BLOCK_SIZE,
    BLOCKS,
    CACHED_BLOCKS,
    CACHING,
    FREE_BLOCKS,
    GENERATED,
    HASHES_AT,
    OWN_HASH,
    PROMPT,
    SHARED_HASHES,
    TABLE_AT,
    TOTAL_BLOCKS,
    Arrays,
)
from block.simulation.compiled import compiled


@compiled
def blocks_for(a: Arrays, tokens: int) -> int:
    """Blocks that hold ``tokens``."""
    size = a.limits[BLOCK_SIZE]
    return (tokens + size - 1) // size


@compiled
def hash_of(a: Arrays, r: int, index: int) -> int:
    """Hash of a request's block: shared with others at the front of its prompt, else its own."""
    if index < a.requests[SHARED_HASHES, r]:
        return a.hashes[a.requests[HASHES_AT, r] + index]
    return a.requests[OWN_HASH, r] + index


@compiled
def cache_hit_blocks(a: Arrays, r: int) -> int:
    """Leading blocks of a waiting request found in the cache; its last token is always recomputed."""
    if a.limits[CACHING] == 0:
        return 0
    total = a.requests[PROMPT, r] + a.requests[GENERATED, r]
    most = (total - 1) // a.limits[BLOCK_SIZE]
    for index in range(most):
        if a.hash_first[hash_of(a, r, index)] < 0:
            return index
    return most


@compiled
def evictable_hits(a: Arrays, r: int, hits: int) -> int:
    """Of the leading ``hits`` cached blocks, those that lie in the free queue and would leave it."""
    count = 0
    for index in range(hits):
        if a.block_references[a.hash_first[hash_of(a, r, index)]] == 0:
            count += 1
    return count


@compiled
def adopt_hits(a: Arrays, r: int, hits: int) -> None:
    """Give the request its leading ``hits`` cached blocks."""
    for index in range(hits):
        block = a.hash_first[hash_of(a, r, index)]
        if a.block_references[block] == 0:
            _unlink_free(a, block)
        a.block_references[block] += 1
        a.tables[a.requests[TABLE_AT, r] + index] = block
    a.requests[BLOCKS, r] = hits
    a.requests[CACHED_BLOCKS, r] = hits


@compiled
def grow(a: Arrays, r: int, count: int) -> None:
    """Append ``count`` fresh blocks; the caller has checked that they are free."""
    if a.limits[CACHING] == 0:
        a.counters[FREE_BLOCKS] -= count
    else:
        head = a.limits[TOTAL_BLOCKS]
        for index in range(a.requests[BLOCKS, r], a.requests[BLOCKS, r] + count):
            block = a.free_next[head]
            _unlink_free(a, block)
            _forget(a, block)
            a.block_references[block] = 1
            a.tables[a.requests[TABLE_AT, r] + index] = block
    a.requests[BLOCKS, r] += count


@compiled
def cache_full_blocks(a: Arrays, r: int, tokens: int) -> None:
    """Enter the request's full blocks up to ``tokens`` in the prefix cache."""
    if a.limits[CACHING] == 0:
        return
    full = tokens // a.limits[BLOCK_SIZE]
    for index in range(a.requests[CACHED_BLOCKS, r], full):
        _remember(a, a.tables[a.requests[TABLE_AT, r] + index], hash_of(a, r, index))
    a.requests[CACHED_BLOCKS, r] = max(a.requests[CACHED_BLOCKS, r], full)


@compiled
def release(a: Arrays, r: int) -> None:
    """Free all blocks of a request: uncached ones are reused first, cached ones last, tail before head."""
    held = a.requests[BLOCKS, r]
    a.requests[BLOCKS, r] = 0
    a.requests[CACHED_BLOCKS, r] = 0
    if a.limits[CACHING] == 0:
        a.counters[FREE_BLOCKS] += held
        return
    front = a.limits[TOTAL_BLOCKS]
    for index in range(held - 1, -1, -1):
        block = a.tables[a.requests[TABLE_AT, r] + index]
        a.block_references[block] -= 1
        if a.block_references[block] > 0:
            continue
        if a.block_hash[block] < 0:
            _link_free(a, block, front)
            front = block
        else:
            _link_free(a, block, a.free_previous[a.limits[TOTAL_BLOCKS] + 1])


@compiled
def _link_free(a: Arrays, block: int, after: int) -> None:
    following = a.free_next[after]
    a.free_next[after] = block
    a.free_previous[block] = after
    a.free_next[block] = following
    a.free_previous[following] = block
    a.counters[FREE_BLOCKS] += 1


@compiled
def _unlink_free(a: Arrays, block: int) -> None:
    before, following = a.free_previous[block], a.free_next[block]
    a.free_next[before] = following
    a.free_previous[following] = before
    a.counters[FREE_BLOCKS] -= 1


@compiled
def _remember(a: Arrays, block: int, key: int) -> None:
    """A hash may be held by several blocks; the oldest entry serves hits."""
    a.block_hash[block] = key
    last = a.hash_last[key]
    a.same_previous[block] = last
    a.same_next[block] = -1
    a.hash_last[key] = block
    if last < 0:
        a.hash_first[key] = block
    else:
        a.same_next[last] = block


@compiled
def _forget(a: Arrays, block: int) -> None:
    key = a.block_hash[block]
    if key < 0:
        return
    a.block_hash[block] = -1
    before, following = a.same_previous[block], a.same_next[block]
    if before < 0:
        a.hash_first[key] = following
    else:
        a.same_next[before] = following
    if following < 0:
        a.hash_last[key] = before
    else:
        a.same_previous[following] = before
