"""Takes generation requests in: each is read, decided on, carried out as an errand, and recorded."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from block.errors import RequestError
from block.http.exchange import Exchange
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher
from global_scheduler.envelope import Envelope
from global_scheduler.errand import Errand
from global_scheduler.headers import ForwardedHeaders, request_ids
from global_scheduler.inquiry import Inquiry
from global_scheduler.receipt import Receipt
from global_scheduler.receipts import Receipts
from global_scheduler.refusals import overloaded, refuse
from global_scheduler.relay import Forward
from global_scheduler.tracing import Tracer
from length_estimation.length_service import LengthService


class Router:
    """Serves the endpoints that are passed on."""

    def __init__(
        self,
        decider: Decider,
        dispatcher: Dispatcher,
        receipts: Receipts,
        lengths: LengthService,
        headers: ForwardedHeaders,
        *,
        max_outstanding: int | None = None,
        tracer: Tracer | None = None,
        records_prompts: bool = False,
    ) -> None:
        """Made on the running loop. ``tracer``: None traces nothing; ``max_outstanding``: requests at once,
        above which more are refused.
        """
        self._loop = asyncio.get_running_loop()
        self._max_outstanding = max_outstanding
        self._outstanding = 0
        self._decider = decider
        self._dispatcher = dispatcher
        self._receipts = receipts
        self._lengths = lengths
        # The same object each time, by which heads keep their envelopes; no method, or they keep this, too.
        self._open = partial(Envelope.of, forwarded=headers)
        self._tracer = tracer
        self._records_prompts = records_prompts

    def serve(self, exchange: Exchange) -> None:
        """Start on one request; its path is among the endpoints."""
        if self._max_outstanding is not None and self._outstanding >= self._max_outstanding:
            self.refuse(exchange, overloaded(self._outstanding))
            return
        envelope = exchange.request.head.once(self._open)
        errand = exchange.listener = Errand(
            self._dispatcher, exchange, _receipt(exchange, envelope), self._file
        )
        self._outstanding += 1
        self._receipts.begin()
        with errand:
            self._route(errand, envelope)

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Answer what never became a whole request; its path is among the endpoints."""
        receipt = _receipt(exchange, exchange.request.head.once(self._open))
        self._receipts.begin()
        refuse(exchange, receipt, error)
        self._receipts.file(receipt)

    def _route(self, errand: Errand, envelope: Envelope) -> None:
        request, receipt = errand.exchange.request, errand.receipt
        if self._tracer is not None:
            receipt.trace = self._tracer.begin(request, receipt.started_s)
        inquiry = envelope.read(receipt.fleet_id, request.body, envelope.extensions)
        receipt.model = inquiry.model
        if self._records_prompts and inquiry.prompt_json:
            receipt.prompt_json = msgspec.json.format(inquiry.prompt_json, indent=-1)  # on one line
        receipt.policy = self._decider.policy_name(inquiry)
        lines = b"%bx-request-id: %b\r\n" % (envelope.lines, inquiry.id.encode())
        forward = Forward(envelope.path, lines, inquiry.body, inquiry.stream)
        decision = self._decider.decide_at_once(inquiry)
        if decision is not None:
            errand.carry_out(decision, forward)
        else:
            errand.wait_for(self._loop.create_task(self._ask(errand, inquiry, forward)))

    async def _ask(self, errand: Errand, inquiry: Inquiry, forward: Forward) -> None:
        with errand:
            errand.carry_out(await self._decider.decide(inquiry), forward)

    def _file(self, errand: Errand) -> None:
        """It is over."""
        self._outstanding -= 1
        self._lengths.abandoned(errand.receipt.fleet_id)  # unless it is completed
        self._receipts.file(errand.receipt)


def _receipt(exchange: Exchange, envelope: Envelope) -> Receipt:
    return Receipt(*request_ids(envelope.extensions), exchange.request.head.path)
