"""The scheduler as an HTTP service: its endpoints, and what opens and closes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from block.access import bearer, is_loopback
from block.config import InstanceConfig, SchedulerConfig, SchedulerSettings
from block.errors import ConfigError, RequestError
from block.http.client import Client
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Request
from block.http.origin import trusting
from global_scheduler.admin import PREFIX as ADMIN
from global_scheduler.admin import Admin
from global_scheduler.courier import Courier
from global_scheduler.decision import Decider
from global_scheduler.dispatch import Dispatcher
from global_scheduler.door import Door
from global_scheduler.endpoints import ENDPOINTS
from global_scheduler.fleet import Fleet
from global_scheduler.headers import ForwardedHeaders
from global_scheduler.health import HealthMonitor
from global_scheduler.instance_file import InstanceFile
from global_scheduler.ledger import Ledger
from global_scheduler.length_admin import LengthAdmin
from global_scheduler.measures import Measures
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.pages import Page, Pages
from global_scheduler.policies import make_policies
from global_scheduler.probe import Prober
from global_scheduler.receipt_writer import ReceiptWriter
from global_scheduler.receipts import Receipts
from global_scheduler.relay import Relay
from global_scheduler.replies import error_body, error_headers
from global_scheduler.roster import Roster
from global_scheduler.router import Router
from global_scheduler.tracing import Tracer, check_tracing
from length_estimation.length_service import LengthService
from length_estimation.service_factory import make_length_service, make_source
from length_estimation.token_counter import make_token_counter

REST_S = 4.0
"""vLLM closes an idle connection after 5 s; a request sent at that moment would be lost."""


def create_app(config: SchedulerConfig, worker: int | None = None) -> SchedulerApp:
    """Build the service. Raises ConfigError for an unknown policy, estimator or a bad tokenizer or key.

    ``worker``: which of several processes on one port this is; it becomes a label of all metrics.
    """
    return SchedulerApp(config, worker)


class SchedulerApp:
    """Endpoints, and the lifespan of what they use."""

    def __init__(self, config: SchedulerConfig, worker: int | None = None) -> None:
        settings = config.settings
        self.limits = Limits(max_body_bytes=settings.max_body_bytes, idle_s=settings.idle_timeout_s)
        self._settings = settings
        self._policies = make_policies(settings)
        self._lengths = make_source(settings)
        self._counter = make_token_counter(settings.tokenizer)
        upstream = settings.upstream
        self._door = Door(settings.access, exposed=not is_loopback(config.host), host=config.host)
        self._headers = ForwardedHeaders(upstream)
        self._predictor_headers = bearer(upstream.predictor_key, "settings.upstream.predictor_key")
        trust = None if upstream.authorities is None else trusting(upstream.authorities)
        self._alone = worker is None
        self._file = InstanceFile(config.instances_file) if config.instances_file else None
        self._fleet = Fleet(
            _first_instances(config, self._file), settings.health_interval_s, settings.breaker, context=trust
        )
        self._metrics = SchedulerMetrics(self._fleet, worker)
        self._resources = AsyncExitStack()
        self._router: Router
        self._admin: Admin
        self._pages = Pages(self._fleet, self._metrics, self._file)
        receipts = settings.receipts
        self._writer = ReceiptWriter(receipts, self._metrics) if receipts.wanted else None
        check_tracing(settings.tracing)

    async def open(self) -> None:
        """Look at the fleet once, and keep looking."""
        settings = self._settings
        http = Client(connect_s=settings.connect_timeout_s, rest_s=REST_S)
        self._resources.push_async_callback(http.close)
        self._resources.callback(self._door.watch().stop)
        self._open_writer()
        courier = Courier(http, self._predictor_headers)
        self._resources.callback(courier.close)
        ledger = Ledger(courier)
        lengths = make_length_service(self._lengths, settings, http)
        self._resources.push_async_callback(lengths.close)
        self._router = self._make_router(http, courier, ledger, lengths)
        self._metrics.lengths = lengths.tally
        await self._open_roster(http, lengths)

    async def close(self) -> None:
        """Let go of the fleet."""
        await self._resources.aclose()

    def handle(self, exchange: Exchange) -> None:
        """Answer a page at once; set a generation request on its way."""
        head = exchange.request.head
        path, method = head.path, head.method
        if self._door.guarded and (refusal := self._door.refusal(exchange.request)) is not None:
            self._metrics.unauthorized.count(())
            _refuse(exchange, refusal)
        elif path in ENDPOINTS:
            if method == b"POST":
                self._router.serve(exchange)
            else:
                _refuse_method(exchange, "POST")
        elif path.startswith(ADMIN):
            self._administer(exchange)
        elif (page := self._pages.find(path)) is not None:
            if method in (b"GET", b"HEAD"):
                _show(exchange, page)
            else:
                _refuse_method(exchange, "GET, HEAD")
        else:
            _refuse(exchange, RequestError(f"no such path: {path[:200].decode('latin-1')}", status=404))

    def _administer(self, exchange: Exchange) -> None:
        if (refusal := self._door.page_refusal(exchange.request)) is not None:
            _refuse(exchange, refusal)
        else:
            self._admin.handle(exchange)

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Say what is wrong with a request that cannot be served."""
        if exchange.request.path in ENDPOINTS:
            self._router.refuse(exchange, error)
        else:
            _refuse(exchange, error)

    def renew(self) -> None:
        """Read the keys again, and open the receipts' file anew."""
        self._door.renew()
        if self._writer is not None:
            self._writer.renew()

    async def _open_roster(self, http: Client, lengths: LengthService) -> None:
        monitor = HealthMonitor(http, self._settings, self._headers.own)
        self._resources.push_async_callback(monitor.stop)
        roster = Roster(self._fleet, monitor, self._settings.drain_timeout_s)
        self._resources.push_async_callback(roster.close)
        about_lengths = LengthAdmin(self._lengths.name, lengths, alone=self._alone)
        self._admin = Admin(self._fleet, roster, self._file, about_lengths, alone=self._alone)
        await roster.open()
        if self._file is not None:
            following = asyncio.create_task(self._file.follow(roster.follow))
            self._resources.callback(following.cancel)

    def _make_router(self, http: Client, courier: Courier, ledger: Ledger, lengths: LengthService) -> Router:
        settings = self._settings
        decider = Decider(
            fleet=self._fleet,
            prober=_make_prober(courier, ledger, self._metrics, settings),
            policies=self._policies,
            lengths=lengths,
            counter=self._counter,
            settings=settings,
        )
        relay = Relay(http, settings)
        dispatcher = Dispatcher(
            relay,
            ledger,
            self._metrics,
            lengths,
            settings,
            counts_tokens=self._writer is not None,
        )
        receipts = Receipts(Measures(self._metrics, self._fleet), self._writer)
        self._metrics.before_reading = receipts.flush
        self._resources.callback(receipts.flush)
        return Router(
            decider,
            dispatcher,
            receipts,
            lengths,
            self._headers,
            max_outstanding=settings.max_outstanding,
            tracer=self._open_tracer(),
            records_prompts=settings.record_prompts,
        )

    def _open_tracer(self) -> Tracer | None:
        if self._settings.tracing.endpoint is None:
            return None
        tracer = Tracer(self._settings.tracing)
        self._resources.push_async_callback(tracer.close)
        return tracer

    def _open_writer(self) -> None:
        if self._writer is not None:
            self._writer.start()
            self._resources.callback(self._writer.close)


def _first_instances(config: SchedulerConfig, file: InstanceFile | None) -> tuple[InstanceConfig, ...]:
    """Raises ConfigError if the file that should list them cannot be used, and there are no others."""
    listed = None if file is None else file.read_if_changed()
    if listed is None and file is not None and not config.instances:
        raise ConfigError(f"instances_file: {file.problem}")
    return config.instances if listed is None else listed


def _make_prober(
    courier: Courier, ledger: Ledger, metrics: SchedulerMetrics, settings: SchedulerSettings
) -> Prober:
    return Prober(
        courier, ledger, metrics, settings.probe_deadline_s, settings.probe_count, settings.scenarios
    )


def _show(exchange: Exchange, render: Callable[[Request], Page]) -> None:
    try:
        page = render(exchange.request)
    except RequestError as error:
        _refuse(exchange, error)
    else:
        exchange.respond(page.status, [(b"content-type", page.content_type)], page.body)


def _refuse_method(exchange: Exchange, allowed: str) -> None:
    path = exchange.request.path.decode("latin-1")
    error = RequestError(f"{path} takes {allowed}", status=405)
    headers = [*error_headers(error), (b"allow", allowed.encode())]
    exchange.respond(405, headers, error_body(error))


def _refuse(exchange: Exchange, error: RequestError) -> None:
    exchange.respond(error.status, error_headers(error), error_body(error))
