"""The way of one generation request through the scheduler: read, decide, dispatch, record."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from block.errors import RequestError
from block.http.exchange import Exchange
from block.http.message import Request
from global_scheduler.client import Client, ClientGoneError
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher, Errand
from global_scheduler.endpoints import ENDPOINTS
from global_scheduler.headers import ForwardedHeaders, extension_headers, request_ids
from global_scheduler.inquiry import Inquiry
from global_scheduler.receipt import Receipt
from global_scheduler.receipts import Receipts
from global_scheduler.relay import Forward
from global_scheduler.replies import error_body, error_headers
from global_scheduler.tracing import Tracer
from length_estimation.length_service import LengthService

logger = logging.getLogger(__name__)


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
        self._headers = headers
        self._tracer = tracer
        self._records_prompts = records_prompts

    def serve(self, exchange: Exchange) -> None:
        """Start on one request; its path is among the endpoints."""
        if self._max_outstanding is not None and self._outstanding >= self._max_outstanding:
            self.refuse(exchange, _overloaded(self._outstanding))
            return
        client = Client(exchange, self._loop)
        headers = extension_headers(exchange.request.headers)
        client.serve(self._serve(client, headers, _receipt(exchange, headers)))

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Answer what never became a whole request."""
        receipt = _receipt(exchange, extension_headers(exchange.request.headers))
        self._receipts.begin()
        _refuse(exchange, receipt, error)
        self._receipts.file(receipt)

    async def _serve(self, client: Client, headers: dict[str, str], receipt: Receipt) -> None:
        """From the body to the receipt; the process boundary for errors of our own."""
        exchange = client.exchange
        self._outstanding += 1
        self._receipts.begin()
        try:
            await self._route(client, headers, receipt)
        except RequestError as error:
            _refuse(exchange, receipt, error)
        except ClientGoneError:
            receipt.gone = True
        except asyncio.CancelledError:
            # The client's leaving, or the server's shutdown. It is not passed on: the exchange is at its
            # end, and that is all that is wanted.
            receipt.gone = client.left
            receipt.broken = exchange.started and not client.left
            if not (exchange.started or client.left):
                _refuse(exchange, receipt, _shutting_down())
        except Exception:
            logger.exception("request %s failed inside the scheduler", receipt.id)
            receipt.broken = True
            if not exchange.started:
                _refuse(exchange, receipt, RequestError("internal error", status=500))
            else:
                exchange.cut()
        finally:
            self._outstanding -= 1
            self._lengths.abandoned(receipt.fleet_id)  # unless it is completed
            self._receipts.file(receipt)

    async def _route(self, client: Client, headers: dict[str, str], receipt: Receipt) -> None:
        request = client.exchange.request
        if self._tracer is not None:
            receipt.trace = self._tracer.begin(request, receipt.started_s)
        inquiry = ENDPOINTS[receipt.path](receipt.fleet_id, request.body, headers)
        receipt.model = inquiry.model
        if self._records_prompts and inquiry.prompt_json:
            receipt.prompt_json = msgspec.json.format(inquiry.prompt_json, indent=-1)  # on one line
        receipt.policy = self._decider.policy_name(inquiry)
        decision = receipt.decision = await self._decider.decide(inquiry)
        forward = self._forward(request, inquiry)
        await self._dispatcher.dispatch(Errand(decision, forward, client, receipt))

    def _forward(self, request: Request, inquiry: Inquiry) -> Forward:
        headers = self._headers.of(request.headers, inquiry.id)
        return Forward(request.relative, headers, inquiry.body, inquiry.stream)


def _receipt(exchange: Exchange, headers: dict[str, str]) -> Receipt:
    return Receipt(*request_ids(headers), exchange.request.path)


def _refuse(exchange: Exchange, receipt: Receipt, error: RequestError) -> None:
    receipt.status = error.status
    headers = [*error_headers(error), (b"x-request-id", receipt.id.encode())]
    exchange.respond(error.status, headers, error_body(error))


def _shutting_down() -> RequestError:
    return RequestError("the router is shutting down", status=503, code="shutdown", retry_after_s=1)


def _overloaded(outstanding: int) -> RequestError:
    return RequestError(
        f"{outstanding} requests are being worked on, and no more are taken",
        status=429,
        code="overloaded",
        retry_after_s=1,
    )
