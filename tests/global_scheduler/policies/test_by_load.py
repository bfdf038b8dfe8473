"""Heuristics on engine loads: each score on loads made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from block.types import EngineLoad
from global_scheduler.policies import POLICIES, Candidate, RoutingRequest, make_policy

REQUEST = RoutingRequest("id", "llama", 100, 20, 100, 0, sequence=0, seed=0)
IDLE = EngineLoad(0, 0, 0, 1000, 1000, 0, 0)
LOAD_POLICIES = [name for name in POLICIES if make_policy(name).needs.load]


def fleet(**loads: EngineLoad | None) -> list[Candidate]:
    return [Candidate(name, 0, load=load) for name, load in loads.items()]


def chosen(policy: str, candidates: list[Candidate], **options: object) -> str:
    return make_policy(policy, options).choose(REQUEST, candidates).instance


@pytest.mark.parametrize("policy", LOAD_POLICIES)
def test_an_idle_instance_beats_a_loaded_one(policy: str) -> None:
    loaded = EngineLoad(10, 5, 1, 200, 1000, 3000, 9000)
    assert chosen(policy, fleet(loaded=loaded, idle=IDLE)) == "idle"


@pytest.mark.parametrize("policy", LOAD_POLICIES)
def test_what_is_not_known_comes_last_and_the_reason_says_if_that_is_all(policy: str) -> None:
    loaded = EngineLoad(10, 5, 1, 200, 1000, 3000, 9000)
    choice = make_policy(policy).choose(REQUEST, fleet(silent=None, loaded=loaded))
    assert (choice.instance, choice.ranking) == ("loaded", ("silent",))
    assert choice.reason != "no_load"
    unknown = [Candidate("a", 3), Candidate("b", 1), Candidate("c", 2)]
    choice = make_policy(policy).choose(REQUEST, unknown)
    assert (choice.instance, *choice.ranking) == ("b", "c", "a")  # fewest outstanding
    assert choice.reason == "no_load"


def test_infaas_takes_the_most_free_blocks_per_running_request() -> None:
    few = replace(IDLE, running=2, free_blocks=400)
    many = replace(IDLE, running=10, free_blocks=600)
    assert chosen("infaas", fleet(few=few, many=many)) == "few"  # 200 against 60


def test_textbook_infaas_takes_the_fewest_used_blocks_per_running_request() -> None:
    few = replace(IDLE, running=2, free_blocks=400)
    many = replace(IDLE, running=10, free_blocks=600)
    assert chosen("infaas_textbook", fleet(few=few, many=many)) == "many"  # 40 against 300


def test_infaas_does_not_see_the_waiting_and_llumnix_does() -> None:
    queued = replace(IDLE, running=2, free_blocks=420, waiting=4, waiting_prompt_tokens=6400)
    clear = replace(IDLE, running=2, free_blocks=400)
    candidates = fleet(queued=queued, clear=clear)
    assert chosen("infaas", candidates) == chosen("infaas_textbook", candidates) == "queued"
    assert chosen("llumnix", candidates) == chosen("llumnix_textbook", candidates) == "clear"


def test_llumnix_counts_waiting_prompts_in_whole_blocks_of_the_engines_size() -> None:
    """33 tokens are 3 blocks of 16, or 2 of 32: then the other's 3 fewer free blocks decide."""
    queued = replace(IDLE, running=1, free_blocks=402, waiting_prompt_tokens=33)
    clear = replace(IDLE, running=1, free_blocks=399)
    for policy in ("llumnix", "llumnix_textbook"):
        order = fleet(queued=queued, clear=replace(clear, free_blocks=400))
        assert chosen(policy, order) == "clear"
        assert chosen(policy, fleet(queued=queued, clear=clear), block_size=32) == "queued"


def test_the_two_forms_of_llumnix_differ_where_batches_differ() -> None:
    few = replace(IDLE, running=2, free_blocks=400)
    many = replace(IDLE, running=10, free_blocks=600)
    assert chosen("llumnix", fleet(few=few, many=many)) == "few"
    assert chosen("llumnix_textbook", fleet(few=few, many=many)) == "many"


def test_lmetric_weighs_cache_hits_against_the_batch() -> None:
    """100 prompt tokens: (100 - cached + waiting) x (requests + 1)."""
    holder = Candidate("holder", 0, load=replace(IDLE, running=9), cached_tokens=90)  # 10 x 10
    other = Candidate("other", 0, load=replace(IDLE, running=1))  # 100 x 2
    assert chosen("lmetric", [holder, other]) == "holder"
    busier = structs.replace(holder, load=replace(IDLE, running=9, waiting=8, committed=4))  # 10 x 22
    assert chosen("lmetric", [busier, other]) == "other"
    queued = structs.replace(holder, load=replace(IDLE, running=9, waiting_prompt_tokens=11))  # 21 x 10
    assert chosen("lmetric", [queued, other]) == "other"


def test_lmetric_does_not_take_an_idle_instance_for_free() -> None:
    idle = Candidate("idle", 0, load=IDLE)  # 100 x 1
    holder = Candidate("holder", 0, load=replace(IDLE, running=3), cached_tokens=80)  # 20 x 4
    assert chosen("lmetric", [idle, holder]) == "holder"


def test_block_nosim_takes_the_least_work() -> None:
    much = replace(IDLE, running=1, unprocessed_tokens=900)
    little = replace(IDLE, running=9, unprocessed_tokens=800)
    assert chosen("block_nosim", fleet(much=much, little=little)) == "little"
