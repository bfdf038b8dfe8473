"""Predictors of several instances behind one port: a question to all of them is one exchange.

Each is found at ``/of/NAME``, as if it were alone there. On a machine that several engines share, asking
costs more than answering: a message each way, and a process that is woken with cold caches, for each
instance. Knows nothing of what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from block.errors import FeedError, RequestError, StateError
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Request, Response
from block.messages import SHARED_PLACE, PredictResponse, PredictSharedRequest, PredictSharedResponse
from predictor.app import PredictorApp, refuse_without_key, respond
from predictor.service import decode, json_response

_SHARED = b"/v1/predict/shared"


class SharedApp:
    """Endpoints of several predictors."""

    limits = Limits()

    def __init__(self, apps: Mapping[str, PredictorApp]) -> None:
        """``apps``: at least one, by instance name."""
        self._apps = apps
        self._by_name = {name.encode(): app for name, app in apps.items()}
        self._first = next(iter(apps.values()))
        self._resources = AsyncExitStack()

    async def open(self) -> None:
        """Have all be ready to answer."""
        for app in self._apps.values():
            await app.open()
            self._resources.push_async_callback(app.close)

    async def close(self) -> None:
        """Leave all feeds."""
        await self._resources.aclose()

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, or have its predictor do so."""
        request = exchange.request
        path = request.path
        if path == _SHARED and request.method == b"POST":
            self._predict(exchange, request)
            return
        name, slash, rest = path.removeprefix(SHARED_PLACE).partition(b"/")
        app = self._by_name.get(name) if path.startswith(SHARED_PLACE) else None
        if app is None:
            known = ", ".join(f"/of/{each}" for each in self._apps)
            self.refuse(exchange, RequestError(f"no such path; predictors are at {known}", status=404))
        else:
            app.handle_at(exchange, slash + rest)

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Say what is wrong with a request that cannot be served."""
        self._first.refuse(exchange, error)

    def renew(self) -> None:
        """Read all keys again."""
        for app in self._apps.values():
            app.renew()

    def _predict(self, exchange: Exchange, request: Request) -> None:
        if all(app.admits(request, _SHARED) for app in self._apps.values()):
            respond(exchange, self._answer, request.body)
        else:
            refuse_without_key(exchange)

    def _answer(self, body: bytes) -> Response:
        shared = decode(body, PredictSharedRequest)
        answers: list[PredictResponse] = []
        for question in shared.questions:
            app = self._apps.get(question.instance)
            if app is None:
                continue
            try:
                answers.append(app.service.answer(shared.to(question)))
            except (FeedError, StateError):
                continue  # the others can answer
        return json_response(PredictSharedResponse(tuple(answers)))
