"""The scheduler as an ASGI application: its endpoints, and what opens and closes with it.

Raw ASGI, because bytes only pass through: a framework's request and response objects would cost
more than everything else here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
from starlette.types import ASGIApp, Receive, Scope, Send

from block.config import SchedulerConfig
from block.errors import BlockError, RequestError
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher
from global_scheduler.fleet import Fleet
from global_scheduler.health import HealthMonitor
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.pages import Page, Pages
from global_scheduler.policies import POLICIES, make_policy
from global_scheduler.probe import Prober
from global_scheduler.receipts import Receipts
from global_scheduler.relay import Relay
from global_scheduler.replies import send_error, send_whole
from global_scheduler.router import GENERATION_PATHS, Router
from length_estimation.length_service import LengthService
from length_estimation.service_factory import make_length_service, make_source
from length_estimation.token_counter import make_token_counter

KEEP_ALIVE_S = 4.0
"""vLLM closes an idle connection after 5 s; a request sent at that moment would be lost."""

logger = logging.getLogger(__name__)


def create_app(config: SchedulerConfig) -> ASGIApp:
    """Build the service. Raises ConfigError for an unknown policy, estimator or a bad tokenizer."""
    return SchedulerApp(config)


class SchedulerApp:
    """Endpoints, and the lifespan of what they use."""

    def __init__(self, config: SchedulerConfig) -> None:
        settings = config.settings
        make_policy(settings.policy)
        self._settings = settings
        self._policies = {name: make_policy(name) for name in POLICIES}
        self._lengths = make_source(settings)
        self._counter = make_token_counter(settings.tokenizer)
        self._fleet = Fleet(config.instances, retry_after_s=settings.health_interval_s)
        self._metrics = SchedulerMetrics(self._fleet)
        self._resources = AsyncExitStack()
        self._router: Router | None = None
        pages = Pages(self._fleet, self._metrics)
        self._pages: Mapping[str, Callable[[], Page]] = {
            "/v1/models": pages.models,
            "/health": pages.health,
            "/metrics": pages.metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise BlockError(f"{scope['type']}: not served here")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in GENERATION_PATHS and method == "POST" and self._router is not None:
            await self._router.serve(scope, receive, send)
        elif path in self._pages and method == "GET":
            page = self._pages[path]()
            await send_whole(send, page.status, page.body, page.content_type)
        elif path in GENERATION_PATHS or path in self._pages:
            allowed = "POST" if path in GENERATION_PATHS else "GET"
            error = RequestError(f"{path} takes {allowed}", status=405)
            await send_error(send, error, [(b"allow", allowed.encode())])
        else:
            await send_error(send, RequestError(f"no such path: {path[:200]}", status=404))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._open()
        except Exception as error:
            logger.exception("start-up failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._resources.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        settings = self._settings
        session = await self._resources.enter_async_context(_open_session())
        ledger = Ledger(session)
        self._resources.push_async_callback(ledger.close)
        prober = Prober(
            session,
            ledger,
            self._metrics,
            settings.probe_deadline_s,
            settings.probe_count,
            settings.scenarios,
        )
        self._resources.push_async_callback(prober.close)
        monitor = HealthMonitor(session, self._fleet, settings.health_interval_s)
        self._resources.push_async_callback(monitor.stop)
        await monitor.start()
        lengths = make_length_service(self._lengths, settings, session)
        self._resources.push_async_callback(lengths.close)
        self._router = self._make_router(session, ledger, prober, lengths)

    def _make_router(
        self, session: aiohttp.ClientSession, ledger: Ledger, prober: Prober, lengths: LengthService
    ) -> Router:
        settings = self._settings
        decider = Decider(
            fleet=self._fleet,
            prober=prober,
            policies=self._policies,
            default_policy=settings.policy,
            lengths=lengths,
            counter=self._counter,
            unbounded_tokens=settings.constant_output_tokens,
        )
        dispatcher = Dispatcher(Relay(session, settings), ledger, self._metrics, settings.attempts)
        return Router(decider, dispatcher, Receipts(self._metrics), settings)


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
