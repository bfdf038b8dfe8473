"""Changed files are noticed: contents, replacement, and coming back after having been away."""

from __future__ import annotations

import asyncio
from pathlib import Path

from block.file_watch import FileWatch


async def test_each_change_is_told_once(tmp_path: Path):
    file, told = tmp_path / "f", []
    file.write_text("one")
    watch = FileWatch([file], lambda: told.append(file.read_text() if file.exists() else None), 0.01)
    await asyncio.sleep(0.05)
    assert told == []
    file.write_text("two!")
    await asyncio.sleep(0.05)
    file.unlink()
    await asyncio.sleep(0.05)
    file.write_text("three")
    await asyncio.sleep(0.05)
    assert told == ["two!", None, "three"]
    watch.stop()
    file.write_text("unheard")
    await asyncio.sleep(0.05)
    assert len(told) == 3
