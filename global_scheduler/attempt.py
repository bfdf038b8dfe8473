"""One request at one instance: what comes back until it may be passed on, and the way of its bytes then.

Driven by the connection's callbacks, and tells its sender by callbacks: there is no task. Does not choose
instances, and does not decide what a failure leads to.
"""

from __future__ import annotations

from block.errors import RequestError, TransportError
from block.http.client_connection import ClientConnection
from block.http.deadlines import NEVER_S
from block.http.message import ResponseHead, first_value, response_lines
from global_scheduler.answer import Answer, Failure, FailureReason, Outlet, Sender, Stream, Whole
from global_scheduler.event_stream import EventCutter, engine_failure
from global_scheduler.headers import forwarded_response

MAX_WHOLE_BODY_BYTES = 256 * 2**20
"""An answer that is not a stream is held in memory until it is complete, up to this."""

NEVER_HEARD_S = -NEVER_S
_JSON = [(b"content-type", b"application/json")]


class Attempt:
    """Receives one answer."""

    __slots__ = (
        "_connection",
        "_cutter",
        "_ends_s",
        "_error",
        "_head",
        "_held_back",
        "_idle_s",
        "_loop",
        "_outlet",
        "_over",
        "_parts",
        "_sender",
        "_size",
        "deadline_s",
        "heard_s",
        "instance_up",
        "sent_s",
        "streams",
        "waiting",
    )

    def __init__(
        self,
        sender: Sender,
        connection: ClientConnection,
        deadline_s: float,
        idle_s: float,
        *,
        streams: bool = True,
        ends_s: float = NEVER_S,
    ) -> None:
        """``deadline_s``: for the first byte of a stream, or for the last of anything else.

        ``streams``: which of both was asked for. ``ends_s``: when it must be over in any case.
        """
        self._sender = sender
        self._connection = connection
        self._loop = loop = connection.loop
        self._ends_s = ends_s
        self._idle_s = idle_s
        self.deadline_s = min(ends_s, deadline_s)
        self.streams = streams
        self.sent_s = loop.time()
        self.heard_s = NEVER_HEARD_S
        self.instance_up = True
        """Whether, if nothing comes, the instance is merely late."""
        self.waiting = True
        """Whether nothing that may be passed on has come yet."""
        self._head: ResponseHead
        self._size = 0
        self._parts: list[bytes] = []
        self._cutter: EventCutter | None = None
        self._outlet: Outlet | None = None
        self._error: Exception | None = None
        self._over = self._held_back = False

    def pass_on(self, lines: bytes, outlet: Outlet) -> None:
        """Pass a stream on, from its head (the instance's and more) to its end."""
        outlet.start(lines, b"".join(self._parts))
        self._parts.clear()
        self._outlet = outlet
        if not self._over:
            self._allow_idling(self._loop.time())
            if outlet.paused:
                self.pause()
        else:
            self._end_stream()

    def give_up(self) -> None:
        """The instance is down for certain: what waits for its first byte need not wait on."""
        self.instance_up = False
        self.expire()

    def evict(self, error: RequestError) -> None:
        """It must not go on, though nothing is wrong with it."""
        if not self._over:
            self._connection.abort()
            self._break(error)

    def drop(self) -> None:
        """Nobody wants it any more."""
        self._outlet = None
        if not self._over:
            self._over = True
            self._connection.abort()

    # The client's side

    def pause(self) -> None:
        """Hold the source back."""
        if not self._over:
            self._held_back = True
            self.deadline_s = self._ends_s  # it is not the instance that is slow
            self._connection.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._held_back:
            self._held_back = False
            self._allow_idling(self._loop.time())
            self._connection.resume()

    # The connection's side

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """All of the answer has come at once."""
        self._over = True
        self.deadline_s = NEVER_S
        self.heard_s = self._loop.time()
        self._head = head
        if not head.once(_is_event_stream):
            self._answer_whole(body)
        elif body:
            self._parts.append(body)
            self._open_stream(body)
        else:
            self._fail("empty")

    def head(self, head: ResponseHead) -> None:
        """The answer begins."""
        self._head = head
        if head.once(_is_event_stream):
            self._cutter = EventCutter()

    def body(self, data: bytes, *, last: bool) -> None:
        """More of the answer."""
        cutter = self._cutter
        if cutter is None:
            self._collect(data)
            return
        events = cutter.feed(data)
        self.heard_s = self._loop.time()
        if self._outlet is not None:
            self._allow_idling(self.heard_s)
            if last:
                self._parts.append(events)  # goes out with the end
            elif events:
                self._outlet.write(events)
        elif events:
            self._parts.append(events)
            if self.waiting:
                self._open_stream(events)

    def complete(self) -> None:
        """The answer has ended in order."""
        self._over = True
        self.deadline_s = NEVER_S
        if self._outlet is not None:
            self._end_stream()
        elif self.waiting:
            if self._cutter is None:
                parts = self._parts
                self._answer_whole(parts[0] if len(parts) == 1 else b"".join(parts))
            elif rest := self._cutter.rest():
                self._parts.append(rest)
                self._open_stream(rest)
            else:
                self._fail("empty")

    def failed(self, error: TransportError) -> None:
        """The answer will not end in order."""
        self._break(error)

    # The clock's side

    def expire(self) -> None:
        """Nothing has come for too long, or it has taken too long in all."""
        if not self._over:
            self._connection.abort()
            out_of_time = self._loop.time() >= self._ends_s and self.instance_up
            self._break(_took_too_long() if out_of_time else TimeoutError())

    def _allow_idling(self, now_s: float) -> None:
        deadline_s = now_s + self._idle_s
        self.deadline_s = min(self._ends_s, deadline_s)

    def _collect(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self.heard_s = self._loop.time()
        self._allow_idling(self.heard_s)
        if self._size > MAX_WHOLE_BODY_BYTES:
            self.drop()
            self._fail("too_large")

    def _open_stream(self, first: bytes) -> None:
        failure = engine_failure(first)
        if failure is None:
            self._tell(Stream(self._head.status, self._head.once(forwarded_response), self))
            return
        self.drop()
        status, body = failure
        self._fail("engine", Whole(status, response_lines(status, _JSON), body))

    def _answer_whole(self, body: bytes) -> None:
        answer = Whole(self._head.status, self._head.once(forwarded_response), body)
        if answer.status >= 500:
            self._fail("status", answer)
        else:
            self._tell(answer)

    def _break(self, error: Exception) -> None:
        self._over = True
        self.deadline_s = NEVER_S
        self._error = error
        if self._outlet is not None:
            self._end_stream()
        elif self.waiting:
            late = isinstance(error, TimeoutError | RequestError) and self.instance_up
            self._fail("timeout" if late else "reset")

    def _fail(self, reason: FailureReason, answer: Whole | None = None) -> None:
        self._tell(Failure(reason, answer))

    def _tell(self, answer: Answer) -> None:
        if self.waiting:
            self.waiting = False
            self._sender.answered(answer)

    def _end_stream(self) -> None:
        outlet, self._outlet = self._outlet, None
        if outlet is None:
            return
        if self._error is None:
            if self._cutter is not None:
                self._parts.append(self._cutter.rest())
            outlet.finish(b"".join(self._parts))
        self._sender.ended(self._error)


def _is_event_stream(head: ResponseHead) -> bool:
    content_type = first_value(head.headers, b"content-type") or b""
    return head.status == 200 and content_type.partition(b";")[0].strip().lower() == b"text/event-stream"


def _took_too_long() -> RequestError:
    return RequestError("the answer took too long in all", status=504, code="total_timeout")
