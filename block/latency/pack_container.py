"""The file that a pack lies in: a zip of one JSON header and integer columns, signed by its own digest.

The zip's comment, its very last bytes, is the SHA-256 of everything before it, so a file that was cut,
flipped or put together by something else is known before any of it is believed. ``numpy.load`` can read
the columns. Knows bytes and arrays, nothing of steps; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from block.errors import PackError

Integers = npt.NDArray[np.int64]

HEADER = "header.json"
MAGIC = b"PK\x03\x04"
_SIGNATURE = b"block-pack sha256:"
_TAIL = len(_SIGNATURE) + 64
# A fixed time, so that the same pack is the same bytes.
_WRITTEN = (1980, 1, 1, 0, 0, 0)


def write_container(path: Path, header: bytes, columns: Mapping[str, Integers]) -> None:
    """Write whole or not at all; raises PackError if the place cannot be written."""
    data = _zipped({HEADER: header, **{f"{name}.npy": _npy(values) for name, values in columns.items()}})
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise PackError(f"{path}: cannot be written ({error.strerror})") from error


def read_container(path: Path) -> tuple[bytes, dict[str, Integers]]:
    """Header and columns of a file that ``write_container`` wrote; raises PackError for any other."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    _verify(path, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {item.filename: archive.read(item) for item in archive.infolist()}
        header = parts.pop(HEADER)
        columns = {name.removesuffix(".npy"): _values(part) for name, part in parts.items()}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise PackError(f"{path}: signed as a pack, but not written as one ({error})") from error
    return header, columns


def is_container(path: Path) -> bool:
    """Whether a file is named as a pack is, be it sound or not, or begins as one does."""
    if path.suffix == ".npz":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _verify(path: Path, data: bytes) -> None:
    if not data:
        raise PackError(f"{path}: is empty")
    if not data.startswith(MAGIC):
        raise PackError(f"{path}: is no pack: begins with {data[:8]!r}, a pack begins with {MAGIC!r}")
    body, tail = data[:-_TAIL], data[-_TAIL:]
    if not tail.startswith(_SIGNATURE):
        longer = _SIGNATURE in data and len(data) - data.rindex(_SIGNATURE) > _TAIL
        why = "has bytes after its signature" if longer else "is cut short, or a zip file that is no pack"
        raise PackError(f"{path}: {why}: its end is not {_SIGNATURE.decode()}...; make or copy it anew")
    if hashlib.sha256(body).hexdigest().encode() != tail[len(_SIGNATURE) :]:
        raise PackError(f"{path}: is damaged: its contents do not match its SHA-256; copy it anew")


def _zipped(parts: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.comment = b"\0" * _TAIL
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _WRITTEN), part, zipfile.ZIP_DEFLATED)
    body = buffer.getvalue()[:-_TAIL]
    return body + _SIGNATURE + hashlib.sha256(body).hexdigest().encode()


def _npy(values: Integers) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _values(part: bytes) -> Integers:
    values = np.load(io.BytesIO(part), allow_pickle=False)
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError(f"a column of {values.dtype} in {values.ndim} dimensions")
    return np.asarray(values)
