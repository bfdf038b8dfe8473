"""The way of one generation request through the scheduler: read, decide, dispatch, record."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from block.config import SchedulerSettings
from block.errors import RequestError
from global_scheduler.client import Client, ClientGoneError
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher, Errand
from global_scheduler.headers import forwarded_request, request_id, text_headers, unique_id
from global_scheduler.inquiry import Inquiry, read_inquiry
from global_scheduler.receipts import Receipt, Receipts
from global_scheduler.relay import Forward

CHAT_PATH = "/v1/chat/completions"
GENERATION_PATHS = frozenset({CHAT_PATH, "/v1/completions"})

logger = logging.getLogger(__name__)


class Router:
    """Serves ``/v1/chat/completions`` and ``/v1/completions``."""

    def __init__(
        self, decider: Decider, dispatcher: Dispatcher, receipts: Receipts, settings: SchedulerSettings
    ) -> None:
        self._decider = decider
        self._dispatcher = dispatcher
        self._receipts = receipts
        self._settings = settings

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its body to its receipt; the process boundary for errors of our own."""
        headers = text_headers(scope["headers"])
        client_id = request_id(headers)
        receipt = Receipt(client_id, unique_id(client_id))
        client = Client(receive, send)
        try:
            await self._route(scope, headers, client, receipt)
        except RequestError as error:
            await self._refuse(client, receipt, error)
        except ClientGoneError:
            receipt.gone = True
        except asyncio.CancelledError:
            # The server's shutdown. It is not passed on: the exchange is at its end, and that is all
            # that the server wants.
            receipt.broken = client.answered
            if not client.answered:
                await self._refuse(client, receipt, _shutting_down())
        except Exception:
            logger.exception("request %s failed inside the scheduler", receipt.id)
            receipt.broken = True
            if not client.answered:
                await self._refuse(client, receipt, RequestError("internal error", status=500))
        finally:
            self._receipts.file(receipt)

    async def _route(self, scope: Scope, headers: dict[str, str], client: Client, receipt: Receipt) -> None:
        settings = self._settings
        declared = int(headers["content-length"]) if "content-length" in headers else None
        body = await client.read_body(declared, settings.max_body_bytes, settings.idle_timeout_s)
        chat = scope["path"] == CHAT_PATH
        inquiry = read_inquiry(receipt.fleet_id, chat=chat, body=body, headers=headers)
        receipt.policy = self._decider.policy_name(inquiry)
        async with client:
            decision = await self._decider.decide(inquiry)
            receipt.decision_s = decision.took_s
            receipt.fallback = decision.fallback
            errand = Errand(decision, _forward(scope, inquiry), client, receipt)
            await self._dispatcher.dispatch(errand)

    async def _refuse(self, client: Client, receipt: Receipt, error: RequestError) -> None:
        receipt.status = error.status
        await client.refuse(error, [(b"x-request-id", receipt.id.encode())])


def _shutting_down() -> RequestError:
    return RequestError("the router is shutting down", status=503, code="shutdown", retry_after_s=1)


def _forward(scope: Scope, inquiry: Inquiry) -> Forward:
    query = scope["query_string"].decode("latin-1")
    path = scope["path"] + (f"?{query}" if query else "")
    return Forward(path, forwarded_request(scope["headers"], inquiry.id), inquiry.body, inquiry.stream)
