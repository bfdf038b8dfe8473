"""When an instance that was taken off the lists may end."""

from __future__ import annotations

from deploy.fleet.leaving import Leaving


def test_it_ends_when_two_looks_in_a_row_find_it_idle() -> None:
    one = Leaving.begun(0.0)
    one.note(1.0, 0)
    assert not one.may_end(1.0, patience_s=60.0)
    one.note(2.0, 3)
    one.note(3.0, 0)
    assert not one.may_end(3.0, patience_s=60.0)
    one.note(4.0, 0)
    assert one.may_end(4.0, patience_s=60.0)


def test_as_long_as_it_has_requests_it_never_ends() -> None:
    one = Leaving.begun(0.0)
    for now_s in range(1000):
        one.note(now_s, 1)
    assert not one.may_end(1000.0, patience_s=60.0)


def test_one_that_cannot_be_asked_is_waited_for_a_while() -> None:
    one = Leaving.begun(0.0)
    one.note(10.0, 2)
    one.note(20.0, None)
    assert not one.may_end(69.0, patience_s=60.0)
    assert one.may_end(71.0, patience_s=60.0)


def test_one_without_an_engine_has_nothing_to_lose() -> None:
    one = Leaving.begun(0.0)
    one.gone = True
    assert one.may_end(0.0, patience_s=60.0)
