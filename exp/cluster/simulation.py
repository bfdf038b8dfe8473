"""The cluster's clock: one heap of events, from a request's arrival at a scheduler to its last token.

Engines run in virtual time (``block.simulation.fleet``), choices are made by the router's own policies.
One seed, one clock, no sockets: the same specification and load give the same bytes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from block.errors import StateError
from block.simulation.fleet import EngineFleet
from block.simulation.fleet_members import FleetEngine, FleetRequests
from block.simulation.memory import Ints
from block.simulation.turnover import FATE_FINISH, FATE_FIRST_TOKEN, FATE_HITS, FATE_PREEMPTIONS
from block.simulation.what_if_runs import E2E
from block.types import EngineLoad
from exp.cluster.load import ClusterLoad
from exp.cluster.membership import Membership
from exp.cluster.prefixes import cached_by, digests_of
from exp.cluster.provisioning import SimulatedProvisioning
from exp.cluster.result import ClusterResult, Journal, Status
from exp.cluster.router import Router, Told, told_by
from exp.cluster.spec import ClusterSpec, Failure
from exp.workload import HASH_TOKENS
from global_scheduler.policies import Choice, RoutingRequest, make_policy
from global_scheduler.traffic import Burden

Progress = Callable[[int], None]


def simulate_cluster(
    spec: ClusterSpec, load: ClusterLoad, on_progress: Progress | None = None
) -> ClusterResult:
    """What becomes of each request. ``on_progress`` is told how many have ended, now and then.

    Raises ConfigError for an unknown policy or option, StateError for a load that an instance cannot hold.
    """
    return _ClusterSimulation(spec, load, on_progress).run()


@dataclass(slots=True)
class _Dispatch:
    """Where a request is, and what its scheduler will do about it."""

    router: Router
    request: RoutingRequest
    choice: Choice | None = None
    instance: int = -1
    ticket: int = -1
    """By which the scheduler counts it as outstanding."""
    tried: int = 0
    """Of the choice's ranking."""
    cached: dict[int, int] = field(default_factory=dict)
    """Tokens of its prompt that instances are taken to have cached; those with none are left out."""


class _ClusterSimulation:
    def __init__(self, spec: ClusterSpec, load: ClusterLoad, on_progress: Progress | None) -> None:
        self._spec, self._load, self._delays = spec, load, spec.delays
        self._on_progress = on_progress or (lambda _: None)
        self._fleet = _fleet(spec, load)
        self._policy = make_policy(spec.policy, spec.policy_options)
        self._cached = cached_by(spec.prefixes)
        count = len(spec.instances)
        self._routers = [Router(self._policy, count, spec.probes) for _ in range(spec.schedulers)]
        self._members = Membership(spec.instances)
        self._provisioning = (
            SimulatedProvisioning(spec, self._fleet, self._members) if spec.provisioning else None
        )
        self._journal = Journal(load, count)
        self._dispatches: dict[int, _Dispatch] = {}
        self._truth = self._fleet.rows_of_truth if spec.hindsight else None
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._heard = 0
        self._open = len(load)
        """Requests that have not ended."""
        self._now_s = 0.0

    def run(self) -> ClusterResult:
        """To the end of the last request."""
        self._plan()
        while self._events and self._open:
            self._now_s, _, act, arguments = heapq.heappop(self._events)
            self._hear()
            act(*arguments)
        decisions = self._provisioning.decisions if self._provisioning else ()
        return self._journal.result(self._members.served_s(self._now_s), decisions)

    def _plan(self) -> None:
        """All that is known beforehand."""
        chooser = random.Random(self._spec.seed)
        for index, instance in enumerate(self._spec.instances):
            if instance.joins_s < math.inf:
                self._at(instance.joins_s, self._join, index)
            if instance.drains_s < math.inf:
                self._at(instance.drains_s, self._drain, index)
        for failure in self._spec.failures:
            self._at(failure.at_s, self._fail, failure)
        self._at(0.0, self._sample)
        if self._provisioning is not None:
            self._at(0.0, self._provision, self._provisioning)
        for number, arrival_s in enumerate(self._load.arrival_s.tolist()):
            self._at(arrival_s, self._arrive, number, chooser.randrange(self._spec.schedulers))

    def _at(self, time_s: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (time_s, self._order, act, arguments))
        self._order += 1

    def _hear(self) -> None:
        """Let the engines run up to what is known of them by now, and see who is done."""
        fleet = self._fleet
        fleet.run_until(self._now_s - self._delays.feed_s)
        ended = int(fleet.done[0])
        while self._heard < ended:
            self._heard += 1
            self._finish(int(fleet.done[self._heard]))

    def _finish(self, number: int) -> None:
        dispatch = self._dispatches.pop(number)
        dispatch.router.end(dispatch.instance, dispatch.ticket)
        self._members.end(dispatch.instance, self._now_s)
        fate = self._fleet.fates[number]
        first_s = float(fate[FATE_FIRST_TOKEN]) + self._delays.return_s
        finish_s = float(fate[FATE_FINISH]) + self._delays.return_s
        self._journal.finish(number, first_s, finish_s, int(fate[FATE_PREEMPTIONS]), int(fate[FATE_HITS]))
        self._close()
        if self._provisioning is not None:
            self._provisioning.measured(finish_s - float(self._load.arrival_s[number]))

    def _close(self) -> None:
        self._open -= 1
        self._on_progress(len(self._load) - self._open)

    def _arrive(self, number: int, copy: int) -> None:
        router = self._routers[copy]
        request = self._describe(number, router)
        dispatch = self._dispatches[number] = _Dispatch(router, request)
        self._journal.router[number] = copy
        if self._provisioning is not None:
            self._provisioning.arrived(request.prompt_tokens, request.output_tokens)
        self._ask(number, dispatch, copy)

    def _ask(self, number: int, dispatch: _Dispatch, copy: int) -> None:
        chosen = dispatch.router.to_ask(self._members.eligible, dispatch.request.seed)
        asked = np.array([index for index in chosen if self._members.alive(index)], np.int64)
        dispatch.cached = self._known_cached(number, dispatch)
        told = self._told(number, asked, dispatch, copy)
        if self._truth is not None:
            found = self._fleet.ask_hindsight(number, asked, self._now_s, self._truth)
            self._journal.note_hindsight(number, asked.tolist(), found.figures[:, E2E].tolist())
        self._at(self._now_s + self._delays.decision_s, self._decide, number, told)

    def _known_cached(self, number: int, dispatch: _Dispatch) -> dict[int, int]:
        """By instance, as far as its router knows when predictors are asked."""
        digests, eligible = dispatch.request.prefix_digests, np.array(self._members.eligible, np.int64)
        if not digests:
            return {}
        tokens = self._cached(self._fleet, dispatch.router, number, digests, eligible)
        found = zip(eligible.tolist(), tokens.tolist(), strict=True)
        return {index: held for index, held in found if held}

    def _told(self, number: int, asked: Ints, dispatch: _Dispatch, copy: int) -> dict[int, Told]:
        needs, fleet, spec = self._policy.needs, self._fleet, self._spec
        if not len(asked):
            return {}
        if not needs.predictions:
            loads = fleet.loads(asked, self._now_s, asker=copy, told=spec.reservations)
            rows = zip(asked.tolist(), loads.tolist(), strict=True)
            return {index: Told(EngineLoad(*load)) for index, load in rows}
        cached = np.array([dispatch.cached.get(index, 0) for index in asked.tolist()], np.int64)
        answers = fleet.ask(
            number,
            asked,
            self._now_s,
            asker=copy,
            told=spec.reservations,
            harm=needs.harm,
            cached_tokens=cached,
        )
        ages_s = np.maximum(self._now_s - fleet.acted_s(asked), 0.0).tolist()
        return told_by(asked.tolist(), answers, self._delays.outside_s, ages_s)

    def _decide(self, number: int, told: dict[int, Told]) -> None:
        dispatch, eligible = self._dispatches[number], self._members.eligible
        if not eligible:
            self._end_without(number, Status.REFUSED)
            return
        told = {index: told[index] for index in eligible if index in told}
        dispatch.choice = dispatch.router.choose(
            dispatch.request, eligible, told, dispatch.cached, self._now_s
        )
        dispatch.tried = 0
        self._journal.note_choice(number, self._now_s, dispatch.choice, told)
        self._send_to(number, dispatch, int(dispatch.choice.instance))
        predicted_s = [one.prediction.e2e_s for one in told.values() if one.prediction is not None]
        if self._provisioning is not None and predicted_s:
            self._provisioning.predicted(min(predicted_s))

    def _send_to(self, number: int, dispatch: _Dispatch, instance: int) -> None:
        request, now_s = dispatch.request, self._now_s
        dispatch.instance = instance
        self._journal.note_attempt(number, instance)
        if not self._members.alive(instance):
            self._at(now_s + self._delays.dispatch_s + self._delays.retry_s, self._retry, number)
            return
        burden = Burden(request.prompt_tokens, request.output_tokens, request.prefix_digests)
        dispatch.ticket = dispatch.router.begin(instance, burden, now_s)
        self._members.begin(instance)
        told_s, cached = now_s + self._delays.tell_s, dispatch.cached.get(instance, 0)
        self._fleet.tell(number, int(self._journal.router[number]), told_s, cached)
        self._fleet.send(number, instance, now_s + self._delays.dispatch_s)

    def _retry(self, number: int) -> None:
        """The next best that is there; if all have been tried, the predictors are asked anew."""
        dispatch = self._dispatches[number]
        ranking: Sequence[str] = () if dispatch.choice is None else dispatch.choice.ranking
        while dispatch.tried < len(ranking):
            instance = int(ranking[dispatch.tried])
            dispatch.tried += 1
            if instance in self._members.eligible:
                self._send_to(number, dispatch, instance)
                return
        if self._members.eligible:
            self._ask(number, dispatch, int(self._journal.router[number]))
        else:
            self._end_without(number, Status.REFUSED)

    def _end_without(self, number: int, status: Status) -> None:
        """A request ends without its answer, or with half of it."""
        del self._dispatches[number]
        self._journal.break_off(number, status, self._now_s)
        self._close()

    def _join(self, instance: int) -> None:
        self._members.join(instance, self._now_s)
        if self._provisioning is not None:
            self._provisioning.joined(instance)
        if self._spec.expect_arrivals:
            self._fleet.expect_arrivals(instance, self._now_s)

    def _drain(self, instance: int) -> None:
        self._members.drain(instance, self._now_s)

    def _fail(self, failure: Failure) -> None:
        """Everything there is lost: what has not begun to answer goes elsewhere, the rest is broken off."""
        instance = failure.instance
        if not self._members.alive(instance):
            return
        self._fleet.run_until(self._now_s)
        self._hear()
        self._members.fail(instance, self._now_s)
        for number, begun in self._fleet.fail(instance):
            dispatch = self._dispatches[number]
            dispatch.router.end(instance, dispatch.ticket)
            self._members.end(instance, self._now_s)
            if begun:
                self._end_without(number, Status.BROKEN)
            else:
                self._at(self._now_s + self._delays.retry_s, self._retry, number)
        self._at(self._now_s + failure.noticed_s, self._members.shun, instance)
        if failure.back_s < math.inf:
            self._at(max(failure.back_s, self._now_s + failure.noticed_s), self._join, instance)

    def _provision(self, provisioning: SimulatedProvisioning) -> None:
        decision, settings = provisioning.decide(self._now_s), provisioning.settings
        self._at(self._now_s + settings.interval_s, self._provision, provisioning)
        if settings.dry_run:
            return
        for _ in range(decision.add):
            if provisioning.recall(self._now_s):
                continue
            if (instance := self._members.call(self._now_s)) is not None:
                ready_s = self._now_s + settings.cold_start_s
                provisioning.called(instance, ready_s)
                self._at(ready_s, self._join, instance)
        for name in decision.drain:
            self._drain(int(name))
            provisioning.dismissed(int(name))

    def _sample(self) -> None:
        looks = int(self._provisioning is not None)
        if self._open and len(self._events) <= looks and self._fleet.next_s == math.inf:
            raise StateError(f"{self._open} requests will never end: engines are idle and hold them")
        self._journal.sample(self._now_s, self._fleet, self._members.present)
        self._at(self._now_s + self._spec.sample_s, self._sample)

    def _describe(self, number: int, router: Router) -> RoutingRequest:
        load, spec, sent = self._load, self._spec, self._fleet.requests
        sequence = router.sequence
        return RoutingRequest(
            id=sent.ids[number],
            model="",
            prompt_tokens=int(load.prompt_tokens[number]),
            output_tokens=int(self._fleet.expected[number]),
            max_tokens=int(sent.max_tokens[number]),
            priority=int(sent.priority[number]),
            sequence=sequence,
            seed=router.next_seed(sent.ids[number]),
            output_quantiles=self._quantiles(number),
            session=load.sessions[number] if load.sessions else "",
            prefix_digests=self._digests(number),
            slo_ttft_s=spec.slo_ttft_s,
            slo_e2e_s=spec.slo_e2e_s,
        )

    def _digests(self, number: int) -> tuple[int, ...]:
        """Of its prompt, where the policy asks for them, or predictors are asked."""
        needs, load = self._policy.needs, self._load
        if not load.block_hashes or not (needs.prefixes or needs.predictions):
            return ()
        return digests_of(load.block_hashes[number], int(load.prompt_tokens[number]))

    def _quantiles(self, number: int) -> tuple[tuple[float, float], ...]:
        """What the router expects of the response; empty for a point."""
        expected = self._load.expected
        if expected is None or len(expected.levels) == 1:
            return ()
        return tuple(zip(expected.levels.tolist(), expected.tokens[number].tolist(), strict=True))


def _fleet(spec: ClusterSpec, load: ClusterLoad) -> EngineFleet:
    room = min(instance.limits.max_model_len for instance in spec.instances)
    requests = FleetRequests(
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        max_tokens=room - load.prompt_tokens if load.max_tokens is None else load.max_tokens,
        lengths=load.lengths.rows(),
        priority=np.zeros(len(load), np.int64) if load.priority is None else load.priority,
        ids=[f"{spec.seed}-{number}" for number in range(len(load))],
        levels=load.levels,
        block_hashes=load.block_hashes,
        hash_tokens=HASH_TOKENS,
    )
    engines = [
        FleetEngine(
            instance.limits,
            instance.latency.kernel,
            None if instance.believed is None else instance.believed.kernel,
        )
        for instance in spec.instances
    ]
    return EngineFleet(engines, requests, spec.scenarios)
