"""What a fleet is made of: its engines, and the requests that they may get. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation.engine import SimulatedRequest, check_limits, check_request
from block.simulation.fleet_prefixes import SharedBlocks
from block.simulation.memory import Floats, Ints
from block.types import EngineLimits


@dataclass(frozen=True, slots=True)
class FleetEngine:
    """One engine, and what its predictor takes it for."""

    limits: EngineLimits
    latency: KernelLatency
    """How long its steps last."""
    believed: KernelLatency | None = None
    """How long its predictor takes them to last; None: as they do."""

    @property
    def what_if(self) -> tuple[EngineLimits, KernelLatency]:
        """What its what-ifs are laid out for."""
        return replace(self.limits, prefix_caching=False), self.believed or self.latency


@dataclass(frozen=True, slots=True)
class FleetRequests:
    """All requests that will be sent, by number; every array is (requests,)."""

    prompt_tokens: Ints
    output_tokens: Ints
    """Where responses really end."""
    max_tokens: Ints
    """What engines and routers know of that end."""
    lengths: Floats
    """(requests, ...) what routers expect, as ``length_rows``."""
    priority: Ints
    ids: Sequence[str]
    levels: Floats | None = None
    """(requests, scenarios) at which lengths are taken in each; None: as predictors do, by the ids."""
    block_hashes: Sequence[tuple[int, ...]] = ()
    """Per request: equal leading ones mean equal leading ``hash_tokens`` tokens of the prompts, each; what
    follows is the request's own. None for all, or a tuple for each."""
    hash_tokens: int = 16

    def __len__(self) -> int:
        return len(self.prompt_tokens)


def check_member(engine: FleetEngine, requests: FleetRequests) -> None:
    """Raises StateError for limits that cannot be, or requests that such an engine could never finish."""
    check_limits(engine.limits)
    total = requests.prompt_tokens + requests.output_tokens
    for row in {int(requests.prompt_tokens.argmax()), int(total.argmax())} if len(requests) else ():
        check_request(
            SimulatedRequest(
                requests.ids[row],
                0.0,
                int(requests.prompt_tokens[row]),
                int(requests.output_tokens[row]),
                int(requests.max_tokens[row]),
            ),
            engine.limits,
        )
    if (requests.max_tokens < requests.output_tokens).any() or (total <= requests.prompt_tokens).any():
        raise StateError("output_tokens: must be at least 1 and not exceed max_tokens")


def shared_blocks(engines: Sequence[FleetEngine], requests: FleetRequests) -> SharedBlocks:
    """As the engines that cache prefixes number them; raises StateError where their blocks differ in size."""
    sizes = {engine.limits.block_size for engine in engines if engine.limits.prefix_caching}
    if len(sizes) > 1:
        raise StateError(
            f"limits.block_size = {', '.join(map(str, sorted(sizes)))}: engines that cache prefixes must "
            "have the same here; give all of them one size"
        )
    hashes = requests.block_hashes if sizes else ()
    if hashes and len(hashes) != len(requests):
        raise StateError("block_hashes: need a tuple for each request, or none at all")
    return SharedBlocks.of(hashes, requests.hash_tokens, requests.prompt_tokens, max(sizes, default=1))


def table_length(requests: FleetRequests, limits: EngineLimits) -> int:
    """Most blocks that a request can ever hold in such an engine; 0 where blocks are only counted."""
    if not limits.prefix_caching or not len(requests):
        return 0
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    return -(-min(longest, limits.max_model_len) // limits.block_size) + 1
