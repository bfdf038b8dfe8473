"""The side-car as an HTTP service: routes to ``PredictorService``, and errors to status codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from block.access import Keyring, brought_key
from block.config import PredictorConfig
from block.errors import BlockError, FeedError, RequestError, StateError
from block.file_watch import FileWatch
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Headers, Request, Response
from block.operation import AccessSettings
from predictor.service import PredictorService, json_response

Handler = Callable[[bytes], Response]

_STATUS = {FeedError: 503, StateError: 422}


def create_app(config: PredictorConfig) -> PredictorApp:
    """One predictor; its feed is opened and closed with it. Raises ConfigError for a bad model or keys."""
    return PredictorApp(PredictorService(config), config.settings.access)


class PredictorApp:
    """Endpoints. Each answer is given at once, for none has to wait for anything."""

    limits = Limits()

    def __init__(self, service: PredictorService, access: AccessSettings) -> None:
        self.service = service
        self._keys = None if access.keys is None else Keyring(access.keys, "settings.access.keys")
        self._open = {b"/health", b"/metrics"} if access.open_metrics else {b"/health"}
        """Paths that need no key."""
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
        if not self.admits(request, path):
            refuse_without_key(exchange)
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
        _respond(exchange, _refusal(error, error.status))

    def renew(self) -> None:
        """Read the keys again."""
        if self._keys is not None:
            self._keys.renew()

    def admits(self, request: Request, path: bytes) -> bool:
        """Whether it brings a key, if ``path`` needs one."""
        if self._keys is None or path in self._open:
            return True
        key = brought_key(request.headers)
        return key is not None and self._keys.admits(key)


def refuse_without_key(exchange: Exchange) -> None:
    """Say which key is needed."""
    error = RequestError("a valid key is needed: Authorization: Bearer KEY", status=401)
    _respond(exchange, _refusal(error, error.status), [(b"www-authenticate", b"Bearer")])


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
