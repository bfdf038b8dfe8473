from __future__ import annotations

from pathlib import Path

import pytest

from deploy.log_file import follow, last_meaningful_line

ENGINE_FAILURE = """\
INFO 11-20 starting
(EngineCore pid=7) ERROR 11-20 12:00:00 [core.py:999] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-20 12:00:00 [core.py:999] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-20 12:00:00 [core.py:999]   File "x.py", line 1, in f
(EngineCore pid=7) ERROR 11-20 12:00:00 [core.py:999] block.errors.PackError: token_knots: must rise strictly
(APIServer pid=5) Traceback (most recent call last):
(APIServer pid=5) RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ENGINE_FAILURE, "block.errors.PackError: token_knots: must rise strictly"),
        ("Traceback (most recent call last):\nKeyError: 'model'\n\n", "KeyError: 'model'"),
        ("Traceback:\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        ("usage: server\nserver: error: --port is needed\n\n", "server: error: --port is needed"),
        ("all is well\n", "all is well"),
        ("", ""),
    ],
)
def test_the_line_that_explains_an_end(tmp_path: Path, text: str, line: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert last_meaningful_line(log) == line


def test_a_missing_log_says_nothing(tmp_path: Path) -> None:
    assert last_meaningful_line(tmp_path / "none.log") == ""


def test_following_gives_whole_lines_of_all_logs_until_the_end(tmp_path: Path) -> None:
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    first.write_text("old\nhal")
    rounds = 0

    def goes_on() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            with first.open("a") as file:
                file.write("f\n")
            second.write_bytes(b"\xff\nlast")
        return rounds < 3

    lines = list(follow([first, second], goes_on, pause_s=0.0))
    assert lines == [("a", "old"), ("a", "half"), ("b", "\ufffd"), ("b", "last")]
