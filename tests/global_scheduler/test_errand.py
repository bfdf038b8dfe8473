"""Requests whose client, server or scheduler gives out at an awkward moment."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from block.config import InstanceConfig, SchedulerSettings
from block.errors import ConnectError
from block.http.exchange import Exchange
from block.http.message import Request, RequestHead, ResponseHead
from global_scheduler.answer import Stream
from global_scheduler.attempt import Attempt
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher
from global_scheduler.engagement import Engagement
from global_scheduler.errand import Errand
from global_scheduler.fleet import Fleet
from global_scheduler.inquiry import read_inquiry
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.policies import make_policies
from global_scheduler.receipt import Receipt
from global_scheduler.relay import Forward
from length_estimation.estimator import OracleEstimator
from length_estimation.length_service import LengthService
from length_estimation.token_counter import make_token_counter

EVENTS = ResponseHead(200, [(b"content-type", b"text/event-stream")])


class Wire:
    def __init__(self) -> None:
        self.sent = b""
        self.cuts = 0

    def send(self, data: bytes) -> None:
        self.sent += data

    def ended(self, *, closes: bool) -> None: ...

    def cut(self) -> None:
        self.cuts += 1


class Connection:
    """To an instance; whoever sends over it has the answer in hand."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.sent: list[Attempt] = []
        self.aborted = 0

    def send(self, attempt: Attempt, head: bytes, body: bytes) -> None:
        self.sent.append(attempt)

    def abort(self) -> None:
        self.aborted += 1


class Relay:
    """Has no connection that is open already."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.now_s = 100.0
        self.opening: list[Any] = []
        self.cancelled = 0

    def resting(self, _: object) -> None:
        return None

    def open(self, _: object, opened: Any) -> Relay:
        self.opening.append(opened)
        return self

    def cancel(self) -> None:
        self.opening.pop()
        self.cancelled += 1

    def begin(self, sender: Engagement, instance: Any, connection: Any, *_: object) -> Attempt:
        self.sender = sender
        attempt = Attempt(sender, connection, deadline_s=1e9, idle_s=5.0)
        instance.signs.begin(attempt)
        return attempt

    def close(self, instance: Any, attempt: Attempt) -> None:
        instance.signs.end(attempt)
        attempt.drop()


class Bench:
    """One errand before two instances."""

    def __init__(self) -> None:
        settings = SchedulerSettings(policy="round_robin", retry_pause_s=0.05)
        configs = [InstanceConfig(name=name, url="http://127.0.0.1:1") for name in "ab"]
        self.fleet = Fleet(configs, retry_after_s=1.0)
        for instance in self.fleet.instances:
            instance.healthy = True
        lengths = LengthService(quick=OracleEstimator())
        decider = Decider(
            fleet=self.fleet,
            prober=None,
            policies=make_policies(settings),
            lengths=lengths,
            counter=make_token_counter(None),
            settings=settings,
        )
        self.relay, self.wire, self.connection = Relay(), Wire(), Connection()
        dispatcher = Dispatcher(self.relay, Ledger(None), SchedulerMetrics(self.fleet), lengths, settings)
        request = Request(RequestHead(b"POST", b"/v1/completions", []))
        self.exchange = Exchange(self.wire, request, closes=False, chunked=True)
        self.done: list[Errand] = []
        self.receipt = Receipt("id", "fleet-id", b"/v1/completions")
        self.errand = Errand(dispatcher, self.exchange, self.receipt, self.done.append)
        self.exchange.listener = self.errand
        inquiry = read_inquiry("fleet-id", chat=False, body=b"{}", headers={})
        decision = decider.decide_at_once(inquiry)
        assert decision is not None
        self.errand.carry_out(decision, Forward(b"/v1/completions", b"", b"{}", stream=True))

    @property
    def outstanding(self) -> int:
        return sum(instance.outstanding for instance in self.fleet.instances)

    def connect(self) -> Attempt:
        self.relay.opening.pop()(self.connection)
        return self.connection.sent[-1]

    def ended_once(self) -> bool:
        return self.done == [self.errand] and self.outstanding == 0


async def test_a_client_that_leaves_while_a_connection_opens_ends_that():
    bench = Bench()
    assert bench.outstanding == 1
    bench.exchange.abort()
    assert bench.ended_once()
    assert bench.receipt.outcome == "gone"
    assert bench.relay.cancelled == 1


async def test_what_has_opened_is_not_cancelled_any_more():
    bench = Bench()
    bench.connect()
    bench.exchange.abort()
    assert bench.connection.aborted == 1
    assert bench.relay.cancelled == 0


async def test_a_server_that_ends_while_a_connection_opens_says_so():
    bench = Bench()
    bench.errand.interrupted()
    assert bench.wire.sent.startswith(b"HTTP/1.1 503 ")
    assert bench.relay.cancelled == 1
    assert bench.ended_once()


async def test_a_client_that_leaves_in_a_pause_ends_it():
    bench = Bench()
    bench.connect().failed(ConnectError("reset"))
    assert bench.outstanding == 0
    bench.exchange.abort()
    await asyncio.sleep(0.1)
    assert bench.relay.opening == []
    assert bench.ended_once()


async def test_after_a_pause_the_next_instance_is_tried():
    bench = Bench()
    bench.connect().failed(ConnectError("reset"))
    await asyncio.sleep(0.1)
    attempt = bench.connect()
    attempt.whole(ResponseHead(200, []), b"hi")
    assert bench.wire.sent.endswith(b"\r\n\r\nhi")
    assert (bench.receipt.attempts, bench.receipt.instance) == (2, "b")
    assert bench.ended_once()


async def test_a_client_that_leaves_in_mid_stream_is_not_told_its_end():
    bench = Bench()
    attempt = bench.connect()
    attempt.head(EVENTS)
    attempt.body(b"data: 1\n\n", last=False)
    sent = bench.wire.sent
    bench.exchange.abort()
    assert bench.connection.aborted == 1
    assert bench.wire.sent == sent
    assert bench.ended_once()
    assert bench.receipt.outcome == "gone"


async def test_a_server_that_ends_in_mid_stream_says_so_in_an_event():
    bench = Bench()
    attempt = bench.connect()
    attempt.head(EVENTS)
    attempt.body(b"data: 1\n\n", last=False)
    bench.errand.interrupted()
    assert b'"code":"shutdown"' in bench.wire.sent
    assert bench.wire.sent.endswith(b"\r\n0\r\n\r\n")
    assert bench.ended_once()
    assert bench.receipt.outcome == "broken"


class Faulty:
    """Passes on a head, if anything, and fails."""

    def __init__(self, *, starts: bool) -> None:
        self._starts = starts

    def pass_on(self, lines: bytes, outlet: Exchange) -> None:
        if self._starts:
            outlet.start(lines)
        raise ZeroDivisionError


@pytest.mark.parametrize("starts", [False, True])
async def test_a_defect_ends_one_request_and_is_logged(starts: bool, caplog: pytest.LogCaptureFixture):
    bench = Bench()
    bench.connect()
    bench.relay.sender.answered(Stream(200, b"HTTP/1.1 200 OK\r\n", Faulty(starts=starts)))
    assert bench.wire.sent.startswith(b"HTTP/1.1 200 " if starts else b"HTTP/1.1 500 ")
    assert bench.wire.cuts == starts
    assert [record.name for record in caplog.records if record.exc_info] == ["global_scheduler.errand"]
    assert bench.ended_once()
    assert bench.receipt.outcome == "broken"


async def test_a_defect_before_an_instance_is_engaged_ends_one_request_too():
    bench = Bench()
    bench.connect().failed(ConnectError("reset"))

    def begin(*_: object) -> int:
        raise ZeroDivisionError

    bench.fleet.instances[1].traffic.begin = begin
    await asyncio.sleep(0.1)
    assert bench.wire.sent.startswith(b"HTTP/1.1 500 ")
    assert bench.ended_once()


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("streams", [False, True])
async def test_what_is_over_leaves_no_cycles(streams: bool, leaves: bool):
    """Searches for them are rare."""
    gc.collect()
    gc.disable()
    try:
        bench = Bench()
        attempt = bench.connect()
        if streams:
            attempt.head(EVENTS)
            attempt.body(b"data: 1\n\n", last=False)
        if leaves:
            bench.exchange.abort()
        elif streams:
            attempt.complete()
        else:
            attempt.whole(ResponseHead(200, []), b"hi")
        assert bench.ended_once()
        bench.done.clear()
        bench.connection.sent.clear()
        bench.relay.sender = None
        del bench, attempt
        assert not [one for one in gc.get_objects() if type(one) in (Errand, Engagement, Attempt, Exchange)]
    finally:
        gc.enable()
