"""Prompt digests and the record of who has seen them."""

from __future__ import annotations

import json
import random
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from global_scheduler.prefixes import BLOCK_BYTES, MAX_BLOCKS, PrefixRecord, prefix_digests


def chat(*turns: str) -> bytes:
    return json.dumps([{"role": "user", "content": turn} for turn in turns]).encode()


def test_a_conversations_next_turn_begins_as_the_last_one() -> None:
    first = chat("x" * 3000)
    second = chat("x" * 3000, "y" * 2000)
    shorter, longer = prefix_digests(b"", first), prefix_digests(b"", second)
    assert len(shorter) == (len(first) - 1) // BLOCK_BYTES
    assert longer[: len(shorter)] == shorter
    assert len(longer) > len(shorter)


def test_the_closing_bracket_is_not_part_of_the_prompt() -> None:
    """A first turn that fills its blocks exactly; in the second a comma follows."""
    text = "x" * (2 * BLOCK_BYTES - len(chat("")) + 1)
    first, second = chat(text), chat(text, "more")
    assert len(first) - 1 == 2 * BLOCK_BYTES
    assert prefix_digests(b"", first) == prefix_digests(b"", second)[:2]


def test_a_difference_changes_all_digests_from_there_on() -> None:
    one = b"a" * (10 * BLOCK_BYTES)
    other = one[: 4 * BLOCK_BYTES] + b"b" + one[4 * BLOCK_BYTES + 1 :]
    ours, theirs = prefix_digests(b"", one), prefix_digests(b"", other)
    assert [mine == yours for mine, yours in zip(ours, theirs, strict=True)] == [True] * 4 + [False] * 5


def test_another_model_shares_nothing() -> None:
    prompt = b"a" * (3 * BLOCK_BYTES)
    assert not set(prefix_digests(b"one", prompt)) & set(prefix_digests(b"two", prompt))


def test_short_prompts_have_no_digest_and_long_ones_a_bounded_number() -> None:
    assert prefix_digests(b"", b"") == ()
    assert prefix_digests(b"", b"a" * BLOCK_BYTES) == ()
    assert len(prefix_digests(b"", b"a" * 10**6)) == MAX_BLOCKS


def test_another_process_computes_the_same() -> None:
    program = "from global_scheduler.prefixes import prefix_digests; print(prefix_digests(b'm', b'a' * 1200))"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == str(prefix_digests(b"m", b"a" * 1200))


@settings(deadline=None)  # a busy machine may stall in any example
@given(st.integers(0, 2**32))
def test_the_record_is_bounded_and_matches_what_it_was_told(seed: int) -> None:
    """Whatever is kept of a prompt is a beginning of it; what was just added is there in full."""
    source, record = random.Random(seed), PrefixRecord(capacity=20)
    for _ in range(60):
        trunk = source.randrange(4)
        digests = [hash((trunk, depth)) for depth in range(source.randint(0, 12))]
        record.add(digests)
        assert len(record) <= 20
        assert record.matched_blocks(digests) == len(digests)
        for other in range(4):
            chain = [hash((other, depth)) for depth in range(12)]
            kept = [digest in record._seen for digest in chain]
            assert record.matched_blocks(chain) == sum(kept)


def test_what_was_not_seen_does_not_match() -> None:
    record = PrefixRecord()
    record.add((1, 2, 3))
    assert record.matched_blocks((1, 2, 9)) == 2
    assert record.matched_blocks((7, 8, 9)) == 0
    assert record.matched_blocks(()) == 0
