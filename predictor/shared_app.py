"""Predictors of several instances behind one port: a question to all of them is one exchange.

Each is found at ``/of/NAME``, as if it were alone there; ``/health`` and ``/metrics`` speak for all. On a
machine that several engines share, asking costs more than answering: a message each way, and a process that
is woken with cold caches, for each instance. Knows nothing of what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from block.errors import FeedError, RequestError, StateError
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Response
from block.messages import SHARED_PLACE, PredictResponse, PredictSharedRequest, PredictSharedResponse
from predictor.app import Handler, PredictorApp, respond
from predictor.metrics import metrics_page
from predictor.service import PredictorService, decode, json_response

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
        self._routes: Mapping[tuple[bytes, bytes], Handler] = {
            (b"POST", _SHARED): self._predict,
            (b"GET", b"/health"): self._health,
            (b"GET", b"/metrics"): self._metrics,
        }

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
        if (handler := self._routes.get((request.method, path))) is not None:
            self._speak_for_all(exchange, handler)
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

    def _speak_for_all(self, exchange: Exchange, handler: Handler) -> None:
        request = exchange.request
        refusals = (app.refusal(request, request.path) for app in self._apps.values())
        refusal = next((one for one in refusals if one is not None), None)
        if refusal is None:
            respond(exchange, handler, request.body)
        else:
            self.refuse(exchange, refusal)

    def _health(self, _: bytes) -> Response:
        """200 once all feeds are followed, 503 otherwise; what is wrong stands beside each instance."""
        states = {service.instance: service.trouble or "ok" for service in self._present}
        ill = [name for name, state in states.items() if state != "ok"]
        status = f"not ready: {', '.join(ill)}" if ill else "ok"
        return json_response({"status": status, "instances": states}, status=503 if ill else 200)

    def _metrics(self, _: bytes) -> Response:
        return metrics_page(*[service.measured for service in self._present])

    @property
    def _present(self) -> list[PredictorService]:
        return [app.service for app in self._apps.values() if not app.service.absent]

    def _predict(self, body: bytes) -> Response:
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
