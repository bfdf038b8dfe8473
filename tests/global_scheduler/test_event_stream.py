"""Event cutting: nothing lost, nothing added, nothing in halves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from global_scheduler.event_stream import MAX_EVENT_BYTES, EventCutter, engine_failure

pieces = st.lists(
    st.sampled_from([b"data: x", b"\n", b"\n\n", b"\r\n\r\n", b"\r", b"a", b""]) | st.binary(max_size=5)
)


@given(pieces)
def test_all_bytes_pass_in_order(chunks):
    cutter = EventCutter()
    assert b"".join(map(cutter.feed, chunks)) + cutter.rest() == b"".join(chunks)


@given(pieces)
def test_what_has_passed_always_ends_with_an_event(chunks):
    cutter = EventCutter()
    passed = b""
    for chunk in chunks:
        passed += cutter.feed(chunk)
        assert passed == b"" or passed.endswith((b"\n\n", b"\r\n\r\n"))


def test_an_endless_event_is_not_kept_for_ever():
    cutter = EventCutter()
    assert cutter.feed(b"x" * MAX_EVENT_BYTES) == b""
    assert len(cutter.feed(b"x")) == MAX_EVENT_BYTES + 1


def test_engine_failures_are_told_from_other_events():
    body = b'{"error": {"message": "dead", "type": "InternalServerError", "param": null, "code": 500}}'
    assert engine_failure(b"data: " + body + b"\n\ndata: [DONE]\n\n") == (500, body)
    assert engine_failure(b"data: " + body.replace(b"500", b"400") + b"\n\n") is None
    assert engine_failure(b'data: {"error": {"message": "' + body + b"\n\n") is None
    assert engine_failure(b'data: {"choices": []}\n\n') is None
