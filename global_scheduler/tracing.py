"""Traces: one span per request with its parts below it, exported by OpenTelemetry's SDK.

Nothing of OpenTelemetry is imported unless traces are wanted. The client's W3C context is taken up, or a
trace begins here; the engine gets the context of the attempt that it serves, so that its own spans stand
below that. Parts whose ids nobody else needs are told afterwards, from the times that were noted anyway.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any

from block.errors import ConfigError
from block.http.message import Request, first_value, header_lines
from block.operation import TracingSettings
from global_scheduler.decision import Decision
from global_scheduler.endpoints import operation_of
from global_scheduler.fleet import Instance
from global_scheduler.receipt import Receipt

if TYPE_CHECKING:
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace import TracerProvider

EXPORT_S = 5.0
"""What a collector may take for one batch."""
CLOSE_S = 3.0
"""What sending the last spans may take at the end."""
_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")
_CONTEXT_HEADERS = (b"traceparent", b"tracestate")
_CONTEXT_LINES = re.compile(rb"^(?:traceparent|tracestate): .*\r\n", re.MULTILINE)

logger = logging.getLogger(__name__)


def check_tracing(settings: TracingSettings) -> None:
    """Raise ConfigError if traces are wanted and OpenTelemetry is not there."""
    if settings.endpoint is None:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"settings.tracing.endpoint = {settings.endpoint!r}: {error.name} is not installed; "
            "install block-router[tracing], or leave the setting out"
        ) from error


class Tracer:
    """Begins traces. Has a thread for the export, so it must not be made before a process forks."""

    def __init__(self, settings: TracingSettings) -> None:
        """``settings`` with an endpoint."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._sample = settings.sample
        self._dice = random.Random()
        self._provider = _provider(settings)
        self._spans = self._provider.get_tracer("global_scheduler")
        self._contexts = TraceContextTextMapPropagator()

    def begin(self, request: Request, started_s: float) -> RequestTrace | None:
        """A trace for ``request``, which came at ``started_s`` of ``time.perf_counter``; None if it is not
        sampled.
        """
        if not self._wanted(first_value(request.headers, b"traceparent")):
            return None
        from opentelemetry.trace import SpanKind

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in request.headers
            if name in _CONTEXT_HEADERS
        }
        epoch_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        span = self._spans.start_span(
            operation_of(request.path),
            context=self._contexts.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=epoch_ns + int(started_s * 1e9),
        )
        span.set_attributes(
            {
                "http.request.method": request.method.decode("latin-1"),
                "url.path": request.path.decode("latin-1"),
                "gen_ai.operation.name": operation_of(request.path),
                "gen_ai.provider.name": "vllm",
            }
        )
        return RequestTrace(self, span, epoch_ns)

    def _wanted(self, parent: bytes | None) -> bool:
        """The client's word if it gave one, else ours; the SDK's own way of finding out costs far more."""
        context = _TRACE_PARENT.fullmatch(parent) if parent else None
        if context is None:
            return self._dice.random() < self._sample
        return bool(int(context[1], 16) & 1)

    def inject(self, context: Any) -> dict[str, str]:
        """The headers that name a context."""
        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, context)
        return carrier

    def start(self, name: str, context: Any, start_ns: int, *, client: bool = False) -> api.Span:
        """A span below ``context``."""
        from opentelemetry.trace import SpanKind

        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return self._spans.start_span(name, context=context, kind=kind, start_time=start_ns)

    async def close(self) -> None:
        """Send what is left, if the collector takes it in time."""
        try:
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), CLOSE_S)
        except TimeoutError:
            logger.error("traces: the last ones could not be sent in time")


class RequestTrace:
    """One request's spans; a ``receipt.Trace``."""

    def __init__(self, tracer: Tracer, root: api.Span, epoch_ns: int) -> None:
        """``epoch_ns``: Unix time at zero of ``time.perf_counter``."""
        self._tracer = tracer
        self._root = root
        self._epoch_ns = epoch_ns
        self._below_root = _context_of(root)
        self._attempt: api.Span | None = None
        self._below_attempt: Any = None
        self._sent_s = 0.0

    def attempt(self, instance: Instance, lines: bytes) -> bytes:
        """It is sent to ``instance``: the headers to send."""
        self._sent_s = time.perf_counter()
        span = self._tracer.start("attempt", self._below_root, self._ns(self._sent_s), client=True)
        span.set_attributes(
            {
                "block.instance": instance.name,
                "server.address": instance.origin.host,
                "server.port": instance.origin.port,
            }
        )
        self._attempt, self._below_attempt = span, _context_of(span)
        context = self._tracer.inject(self._below_attempt)
        own = [(name.encode(), value.encode()) for name, value in context.items()]
        return _CONTEXT_LINES.sub(b"", lines) + header_lines(own)

    def attempted(self, failure: str | None) -> None:
        """That attempt has given a first byte, or has failed."""
        now_s = time.perf_counter()
        if self._attempt is None:
            return
        if failure is not None:
            _fail(self._attempt, failure)
            self._end_attempt(now_s)
            return
        self._part("first byte", self._below_attempt, self._sent_s, now_s)
        self._attempt.add_event("first byte", timestamp=self._ns(now_s))

    def end(self, receipt: Receipt) -> None:
        """Tell the rest; the request is over."""
        if receipt.decision is not None:
            self._tell_decision(receipt.decision)
        if self._attempt is not None:
            if receipt.streamed and receipt.first_byte_s is not None:
                self._part("stream", self._below_attempt, receipt.first_byte_s, receipt.ended_s)
            self._end_attempt(receipt.ended_s)
        self._root.update_name(f"{operation_of(receipt.path)} {receipt.model}".rstrip())
        self._root.set_attributes(_attributes(receipt))
        if receipt.outcome != "2xx":
            _fail(self._root, receipt.outcome if receipt.gone or receipt.broken else str(receipt.status))
        self._root.end(self._ns(receipt.ended_s))

    def _tell_decision(self, decision: Decision) -> None:
        chosen_s = decision.began_s + decision.took_s
        self._part("estimate", self._below_root, decision.began_s, decision.described_s)
        self._part("ask", self._below_root, decision.described_s, decision.asked_s)
        self._part("decide", self._below_root, decision.asked_s, chosen_s)

    def _part(self, name: str, context: Any, from_s: float, to_s: float) -> None:
        self._tracer.start(name, context, self._ns(from_s)).end(self._ns(to_s))

    def _end_attempt(self, now_s: float) -> None:
        if self._attempt is not None:
            self._attempt.end(self._ns(now_s))
            self._attempt = None

    def _ns(self, at_s: float) -> int:
        return self._epoch_ns + int(at_s * 1e9)


def _provider(settings: TracingSettings) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": settings.service_name}),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(settings.endpoint, timeout=EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _context_of(span: api.Span) -> Any:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


def _fail(span: api.Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _attributes(receipt: Receipt) -> dict[str, str | int | float]:
    """What a request's span says of it at the end; nothing of the prompt."""
    said: dict[str, str | int | float | None] = {
        "gen_ai.request.model": receipt.model or None,
        "gen_ai.usage.output_tokens": receipt.output_tokens,
        "http.response.status_code": receipt.status or None,
        "block.request_id": receipt.id,
        "block.policy": receipt.policy,
        "block.instance": receipt.instance,
        "block.attempts": receipt.attempts,
    }
    if receipt.decision is not None:
        said["block.reason"] = receipt.decision.choice.reason
        said["block.fallback"] = receipt.decision.fallback
    if receipt.prediction is not None:
        said["block.predicted_ttft_s"] = receipt.prediction.ttft_s
        said["block.predicted_e2e_s"] = receipt.prediction.e2e_s
    return {name: value for name, value in said.items() if value is not None}
