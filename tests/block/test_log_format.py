"""JSON lines: one object each, whatever was logged."""

from __future__ import annotations

import json
import logging

from block.log_format import JsonFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("room", logging.WARNING, "f.py", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_a_record_is_one_object_on_one_line():
    line = JsonFormatter().format(record('two\nlines and "quotes"'))
    assert "\n" not in line
    said = json.loads(line)
    assert said["message"] == 'two\nlines and "quotes"'
    assert (said["level"], said["logger"]) == ("warning", "room")


def test_an_exception_comes_with_its_traceback():
    try:
        raise ValueError("broken")
    except ValueError as error:
        made = record("it failed", exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: broken" in json.loads(JsonFormatter().format(made))["exception"]


def test_objects_become_a_line_each():
    made = record("ignored", objects=("request", [b'{"id":"a"}', b'{"id":"b"}']))
    lines = JsonFormatter().format(made).splitlines()
    assert [json.loads(line)["request"]["id"] for line in lines] == ["a", "b"]
