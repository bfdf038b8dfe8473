"""The journal of a recording: appended to while the engine runs, whole after any kill, a pack afterwards.

A file of frames: one header frame per engine start, one step frame per executed batch, each with its own
checksum. A kill leaves at most one torn frame at the end, which the next writer cuts off and a reader
leaves out. Knows nothing of vLLM.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from block.errors import PackError
from block.latency.pack import PackHeader, StepPack
from block.types import BatchShape

_FRAME = struct.Struct("<cI")
_CHECKSUM = struct.Struct("<I")
_STEP = struct.Struct("<qddddqqqqq")
_HEADER_KIND, _STEP_KIND = b"H", b"S"
_LARGEST_PAYLOAD = 65_536
_SESSION_GAP_S = 1.0


@dataclass(frozen=True, slots=True)
class JournalStep:
    """One executed batch, as it is written down; times are of the engine's monotonic clock."""

    step: int
    submit_s: float
    ready_s: float
    duration_s: float
    host_s: float
    """NaN where the engine may have been idle."""
    shape: BatchShape


@dataclass
class JournalSession:
    """What one run of an engine wrote."""

    header: PackHeader
    rows: list[tuple[float, ...]] = field(default_factory=list)


class JournalWriter:
    """Appends to one file, which nobody else may write meanwhile. Every append is in the kernel's hands."""

    def __init__(self, path: Path, header: PackHeader) -> None:
        """Open or go on with ``path``; raises PackError if it is locked, foreign, or of another engine."""
        self._file = _locked(path)
        try:
            end = _whole_end(path, header)
            os.ftruncate(self._file, end)
            self._write(_framed(_HEADER_KIND, msgspec.json.encode(header)))
        except BaseException:
            self.close()
            raise

    def append(self, step: JournalStep) -> None:
        """Write one step; raises OSError if the place is full or gone."""
        shape = step.shape
        payload = _STEP.pack(
            step.step,
            step.submit_s,
            step.ready_s,
            step.duration_s,
            step.host_s,
            shape.prefill_tokens,
            shape.decode_tokens,
            shape.context_tokens,
            shape.prefill_context_products,
            shape.requests,
        )
        self._write(_framed(_STEP_KIND, payload))

    def _write(self, frame: bytes) -> None:
        """Whole, or OSError: nothing may follow a frame that a full disk has cut short."""
        if os.write(self._file, frame) < len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


def read_journal(path: Path) -> list[JournalSession]:
    """All sessions, without a torn end; raises PackError for a file that is no journal, or damaged inside."""
    data = _bytes(path)
    sessions: list[JournalSession] = []
    for kind, payload, _ in _frames(path, data):
        if kind == _HEADER_KIND:
            sessions.append(JournalSession(_header(path, payload)))
        elif not sessions:
            raise PackError(f"{path}: begins with a step; a journal begins with a header")
        else:
            sessions[-1].rows.append(_STEP.unpack(payload))
    if not sessions:
        raise PackError(f"{path}: holds no recording (empty, or cut before its first header)")
    return sessions


def pack_from_journal(path: Path, notes: str = "") -> StepPack:
    """All sessions as one pack, one after the other; raises PackError if they are of different engines."""
    sessions = read_journal(path)
    for session in sessions[1:]:
        _check_same(path, sessions[0].header, session.header)
    parts, step, time_s = [], 0, 0.0
    for session in sessions:
        if session.rows:
            rows = np.array(session.rows, dtype=np.float64)
            rows[:, 0] += step + 1 - rows[0, 0]
            rows[:, 1:3] += time_s - rows[0, 1]
            # A hole in the numbers tells the sessions apart.
            step, time_s = int(rows[-1, 0]) + 1, float(rows[-1, 2]) + _SESSION_GAP_S
            parts.append(rows)
    if not parts:
        raise PackError(f"{path}: holds no step yet; send the engine some requests first")
    header = replace(sessions[-1].header, notes=notes or sessions[-1].header.notes)
    return _pack(header, np.concatenate(parts))


def _pack(header: PackHeader, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> StepPack:
    # A column of whole numbers up to 2**53 comes through float64 unchanged.
    step, submit, ready, duration, host, *counts = rows.T
    names = (
        "prefill_tokens",
        "decode_tokens",
        "context_tokens",
        "prefill_context_products",
        "requests",
    )
    integers = {name: column.astype(np.int64) for name, column in zip(names, counts, strict=True)}
    return StepPack(header, step.astype(np.int64), submit, ready, duration, host, **integers)


def _locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise PackError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise PackError(f"{path}: another engine is recording into it; give each its own journal") from error
    return file


def _whole_end(path: Path, header: PackHeader) -> int:
    """Where the last whole frame ends; refuses to mix engines."""
    end = 0
    for kind, payload, frame_end in _frames(path, _bytes(path)):
        if kind == _HEADER_KIND:
            _check_same(path, _header(path, payload), header)
        end = frame_end
    return end


def _check_same(path: Path, first: PackHeader, other: PackHeader) -> None:
    first, other = (replace(each, created_at="", notes="") for each in (first, other))
    names = [each.name for each in fields(first) if getattr(first, each.name) != getattr(other, each.name)]
    if names:
        was, now = ({name: getattr(each, name) for name in names} for each in (first, other))
        raise PackError(f"{path}: recorded on another engine: {was}, not {now}; record into another file")


def _frames(path: Path, data: bytes) -> Iterator[tuple[Literal[b"H", b"S"], bytes, int]]:
    """Whole frames and where each ends; a torn one at the end is left out."""
    at = 0
    while at < len(data):
        frame = _frame_at(data, at)
        if frame is None:
            if _is_torn_end(data, at):
                return
            raise PackError(f"{path}: is no recording journal, or is damaged at byte {at}")
        yield frame
        at = frame[2]


def _frame_at(data: bytes, at: int) -> tuple[Literal[b"H", b"S"], bytes, int] | None:
    if at + _FRAME.size > len(data):
        return None
    kind, length = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length + _CHECKSUM.size
    sane = length == _STEP.size if kind == _STEP_KIND else kind == _HEADER_KIND and length <= _LARGEST_PAYLOAD
    if not sane or end > len(data):
        return None
    framed, (checksum,) = data[at : end - _CHECKSUM.size], _CHECKSUM.unpack_from(data, end - _CHECKSUM.size)
    if zlib.crc32(framed) != checksum:
        return None
    return kind, framed[_FRAME.size :], end


def _is_torn_end(data: bytes, at: int) -> bool:
    """Whether what starts at ``at`` can be a frame that a kill cut short: the file ends within it."""
    kind, left = data[at : at + 1], len(data) - at
    if kind not in (_HEADER_KIND, _STEP_KIND) or left < _FRAME.size:
        return kind in (_HEADER_KIND, _STEP_KIND)
    _, length = _FRAME.unpack_from(data, at)
    whole = length == _STEP.size if kind == _STEP_KIND else length <= _LARGEST_PAYLOAD
    return bool(whole and left <= _FRAME.size + length + _CHECKSUM.size)


def _framed(kind: bytes, payload: bytes) -> bytes:
    framed = _FRAME.pack(kind, len(payload)) + payload
    return framed + _CHECKSUM.pack(zlib.crc32(framed))


def _header(path: Path, payload: bytes) -> PackHeader:
    try:
        return msgspec.json.decode(payload, type=PackHeader)
    except msgspec.DecodeError as error:
        raise PackError(f"{path}: written by another version of this program ({error})") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror}); check the path") from error
