"""What a client gets when no instance's answer can be passed on."""

from __future__ import annotations

from block.errors import RequestError
from block.http.exchange import Exchange
from global_scheduler.answer import FailureReason
from global_scheduler.receipt import Receipt
from global_scheduler.replies import error_body, error_headers


def refuse(exchange: Exchange, receipt: Receipt, error: RequestError) -> None:
    """Answer with what is wrong."""
    receipt.status = error.status
    headers = [*error_headers(error), (b"x-request-id", receipt.id.encode())]
    exchange.respond(error.status, headers, error_body(error))


def overloaded(outstanding: int) -> RequestError:
    """It comes on top of ``outstanding`` requests."""
    return RequestError(
        f"{outstanding} requests are being worked on, and no more are taken",
        status=429,
        code="overloaded",
        retry_after_s=1,
    )


def shutting_down() -> RequestError:
    """It has not been answered before the end."""
    return RequestError("the router is shutting down", status=503, code="shutdown", retry_after_s=1)


def no_answer(reason: FailureReason, attempts: int) -> RequestError:
    """None of the instances had one to give; ``reason``: the last one's."""
    tried = f"{attempts} instance{'s' if attempts != 1 else ''} tried"
    if reason == "timeout":
        return RequestError(f"no answer in time; {tried}", status=504, code="instance_timeout")
    return RequestError(f"no instance answered ({reason}); {tried}", status=502, code="instance_failed")
