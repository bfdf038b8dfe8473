"""The side-car as an HTTP service: routes to ``PredictorService``, and errors to status codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from block.access import Keyring, brought_key, is_loopback
from block.config import PredictorConfig
from block.errors import BlockError, FeedError, RequestError, StateError
from block.file_watch import FileWatch
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Headers, Request, Response
from block.operation import AccessSettings
from block.web_page import PageRule
from predictor.service import PredictorService, json_response

Handler = Callable[[bytes], Response]

_STATUS = {FeedError: 503, StateError: 422}


def create_app(config: PredictorConfig) -> PredictorApp:
    """One predictor; its feed is opened and closed with it. Raises ConfigError for a bad model or keys."""
    return PredictorApp(PredictorService(config), config.settings.access, config.host)


class PredictorApp:
    """Endpoints. Each answer is given at once, for none has to wait for anything."""

    limits = Limits()

    def __init__(self, service: PredictorService, access: AccessSettings, host: str) -> None:
        """``host``: where it listens."""
        self.service = service
        self._keys = None if access.keys is None else Keyring(access.keys, "settings.access.keys")
        self._pages = PageRule(host, "settings.access.keys") if is_loopback(host) else None
        """Without keys, programs of this machine are let in, and its browsers are not."""
        shown = access.open_metrics or self._keys is None
        self._open = {b"/health", b"/metrics"} if shown else {b"/health"}
        """Paths for everybody."""
        self._resources = AsyncExitStack()
        self._routes: Mapping[bytes, tuple[bytes, Handler]] = {
            b"/v1/predict": (b"POST", service.predict),
            b"/v1/predict/batch": (b"POST", service.predict_batch),
            b"/v1/commit": (b"POST", service.commit),
            b"/v1/release": (b"POST", service.release),
            b"/v1/calibration/reset": (b"POST", service.reset_calibration),
            b"/v1/state": (b"GET", service.state),
            b"/health": (b"GET", service.health),
            b"/metrics": (b"GET", service.metrics),
        }

    async def open(self) -> None:
        """Be ready to answer, and follow the feed."""
        await self._resources.enter_async_context(self.service.following())
        if self._keys is not None:
            self._resources.callback(FileWatch(self._keys.files, self._keys.renew).stop)

    async def close(self) -> None:
        """Leave the feed."""
        await self._resources.aclose()

    def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.handle_at(exchange, exchange.request.path)

    def handle_at(self, exchange: Exchange, path: bytes) -> None:
        """As if it had come for ``path``."""
        request = exchange.request
        if (refusal := self.refusal(request, path)) is not None:
            self.refuse(exchange, refusal)
            return
        route = self._routes.get(path)
        if route is None:
            self.refuse(exchange, RequestError(f"no such path: {path[:200].decode('latin-1')}", status=404))
            return
        method, handler = route
        if request.method != method:
            error = RequestError(f"{path.decode()} takes {method.decode()}", status=405)
            _respond(exchange, _refusal(error, error.status), [(b"allow", method)])
            return
        respond(exchange, handler, request.body)

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Say what is wrong with a request that cannot be served."""
        lines = [(b"www-authenticate", b"Bearer")] if error.status == 401 else None
        _respond(exchange, _refusal(error, error.status), lines)

    def renew(self) -> None:
        """Read the keys again."""
        if self._keys is not None:
            self._keys.renew()

    def refusal(self, request: Request, path: bytes) -> RequestError | None:
        """Why it may not come in for ``path``; None if it may."""
        if path in self._open:
            return None
        if self._keys is None:
            return None if self._pages is None else self._pages.refusal(request)
        key = brought_key(request.headers)
        if key is None or not self._keys.admits(key):
            return RequestError("a valid key is needed: Authorization: Bearer KEY", status=401)
        return None


def respond(exchange: Exchange, handler: Handler, body: bytes) -> None:
    """With what the handler answers, or with its error's status."""
    try:
        answer = handler(body)
    except BlockError as error:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        answer = _refusal(error, status)
    _respond(exchange, answer)


def _refusal(error: Exception, status: int) -> Response:
    body = {"error": {"type": type(error).__name__, "message": str(error)}}
    return json_response(body, status=status)


def _respond(exchange: Exchange, answer: Response, headers: Headers | None = None) -> None:
    exchange.respond(answer.status, [*answer.headers, *(headers or ())], answer.body)
