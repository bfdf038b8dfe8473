"""The client: kept-alive connections to any number of servers.

Never sends anything twice: whether that is allowed is for the caller to know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from block.errors import ConnectError, TransportError
from block.http.client_connection import ClientConnection
from block.http.deadlines import Deadlines
from block.http.message import Response, ResponseHead, header_lines, request_head
from block.http.origin import Origin

Opened = Callable[[ClientConnection | ConnectError], None]
"""Gets a new connection, or what was in its way."""

logger = logging.getLogger(__name__)


class Client:
    """Opens connections as they are needed, on the running event loop; close it at the end."""

    def __init__(self, *, connect_s: float, rest_s: float) -> None:
        """``connect_s``: patience with a new connection. ``rest_s``: how long one is kept unused."""
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self.loop)
        self._connect_s = connect_s
        self._rest_s = rest_s
        self._resting: dict[Origin, list[ClientConnection]] = {}
        self._open: set[ClientConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def resting(self, origin: Origin) -> ClientConnection | None:
        """A connection that is open already, the one used last; None if there is none."""
        resting = self._resting.get(origin)
        while resting:
            connection = resting.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self, origin: Origin) -> ClientConnection:
        """A new connection. Raises ConnectError."""
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: ClientConnection(self, origin), origin.host, origin.port, ssl=origin.context
                )
        except (OSError, TimeoutError) as error:
            raise ConnectError(f"{origin.host}:{origin.port}: {error or 'no answer'}") from error
        self._open.add(connection)
        self.deadlines.watch(connection)
        return connection

    def open(self, origin: Origin, opened: Opened) -> asyncio.Task[None]:
        """The same for callers who do not wait: ``opened`` is called later, unless all is closed before, or
        what is returned is cancelled.

        Who has no use for the connection any more does that, or lets it rest.
        """
        task = self.loop.create_task(self._connect(origin, opened))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def fetch(
        self,
        method: bytes,
        origin: Origin,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        timeout_s: float,
        max_bytes: int = 16 * 2**20,
    ) -> Response:
        """One exchange, whole. Raises TransportError, or TimeoutError when it takes too long."""
        async with asyncio.timeout(timeout_s):
            connection = self.resting(origin) or await self.connect(origin)
            collector = Collector(connection, max_bytes)
            head = request_head(method, target, origin.named, header_lines(list(headers)), len(body))
            connection.send(collector, head, body)
            try:
                return await collector.response
            except asyncio.CancelledError:
                connection.abort()
                raise

    async def close(self) -> None:
        """Close all connections; what waits for an answer fails."""
        self.deadlines.close()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # connections say farewell in the loop's next turn

    # The connections' side

    def rest(self, connection: ClientConnection) -> None:
        """A connection can take another request."""
        connection.deadline_s = self.loop.time() + self._rest_s
        self._resting.setdefault(connection.origin, []).append(connection)

    def leave(self, connection: ClientConnection) -> None:
        """A connection has been closed."""
        self._open.discard(connection)
        self.deadlines.forget(connection)
        resting = self._resting.get(connection.origin)
        if resting and connection in resting:
            resting.remove(connection)

    async def _connect(self, origin: Origin, opened: Opened) -> None:
        try:
            connection = await self.connect(origin)
        except ConnectError as error:
            opened(error)  # not to be kept here: it knows this frame, which knows who waits
        except Exception as error:  # the end of a task: who waits would never hear of it
            logger.exception("no connection to %s:%d", origin.host, origin.port)
            opened(ConnectError(f"{origin.host}:{origin.port}: {error!r}"))
        else:
            opened(connection)


class Collector:
    """A receiver that waits for the whole answer."""

    def __init__(self, connection: ClientConnection, max_bytes: int) -> None:
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._room = max_bytes
        self._head: ResponseHead
        self._parts: list[bytes] = []

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """All of the answer."""
        self.head(head)
        self.body(body)
        self.complete()

    def head(self, head: ResponseHead) -> None:
        """The answer begins."""
        self._head = head

    def body(self, data: bytes, **_: bool) -> None:
        """More of the answer."""
        self._parts.append(data)
        self._room -= len(data)
        if self._room < 0:
            self._connection.abort()
            self.failed(TransportError("the answer is too large"))

    def complete(self) -> None:
        """The answer has ended in order."""
        if not self.response.done():
            head = self._head
            self.response.set_result(Response(head.status, head.headers, b"".join(self._parts)))

    def failed(self, error: TransportError) -> None:
        """The answer will not end in order."""
        if not self.response.done():
            self.response.set_exception(error)
