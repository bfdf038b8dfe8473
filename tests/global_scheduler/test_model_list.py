"""Model lists: merged by id, entries untouched, nonsense named as such."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import InstanceError
from global_scheduler.model_list import parse_model_list, render_model_list


def test_entries_keep_their_bytes_and_the_first_of_an_id_counts():
    one = parse_model_list(
        b'{"object":"list","data":[{"id": "m",  "max_model_len": 4096, "permission": [1e3]}]}'
    )
    two = parse_model_list(b'{"data":[{"id":"m"},{"id":"n","max_model_len":null}]}')
    assert [(card.id, card.max_model_len) for card in one + two] == [("m", 4096), ("m", None), ("n", None)]
    merged = render_model_list(one + two)
    assert b'{"id": "m",  "max_model_len": 4096, "permission": [1e3]}' in merged
    assert [card.id for card in parse_model_list(merged)] == ["m", "n"]


@given(st.binary(max_size=60))
def test_what_is_no_list_is_an_instance_error(body):
    try:
        parse_model_list(body)
    except InstanceError:
        return
    assert b"data" in body


def test_entries_without_an_id_are_an_instance_error():
    with pytest.raises(InstanceError, match="id"):
        parse_model_list(b'{"data": [{"name": "m"}]}')
