"""Runs the cells that a folder lacks, over the cores of this machine, with the time left in sight."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import ClassVar

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from block.errors import StateError
from exp.experiment.backend import Backend, Factory, Surroundings
from exp.experiment.cell import Cell
from exp.experiment.equal_cells import EqualCells
from exp.experiment.inputs import inputs_digest
from exp.experiment.run_folder import RunFolder

_PARENT_LOOK_S = 1.0

Done = tuple[Cell, pa.Table, float]
"""A cell, its table, and the seconds it took."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Give it cells."""

    factory: Factory
    surroundings: Surroundings
    workers: int
    """Processes beside each other; 1 runs here."""
    console: Console
    equal: EqualCells = field(default_factory=EqualCells)
    """Whence cells are taken over."""

    def run(self, cells: Iterable[Cell], folder: RunFolder) -> int:
        """Run what the folder lacks; returns how many cells that were. Raises BlockError of a cell."""
        wanted = {cell.id: cell for cell in cells}
        done = {name for name, cell in wanted.items() if folder.has(cell)}
        self._tell_of_other_code([wanted[name] for name in done], folder)
        left = [cell for name, cell in wanted.items() if name not in done and not self._adopted(cell, folder)]
        shown = _Shown(self.console, len(left))
        with shown.bar:
            for cell, table, wall_s in self._done(left):
                folder.save(cell, table, wall_s, inputs_digest(cell, self.surroundings.data))
                shown.tick(cell)
        return len(left)

    def _tell_of_other_code(self, done: Iterable[Cell], folder: RunFolder) -> None:
        """A figure that is made of both would not show it."""
        if others := sum(not folder.current(cell) for cell in done):
            remedy = "name another folder with --out to have all made by this"
            self.console.print(
                f"{folder.path}: {others} cells were made by other code; {remedy}",
                highlight=False,
                soft_wrap=True,
            )

    def _adopted(self, cell: Cell, folder: RunFolder) -> bool:
        found = self.equal.find(cell)
        if found is not None:
            folder.adopt(cell, found)
        return found is not None

    def _done(self, cells: Sequence[Cell]) -> Iterator[Done]:
        if self.workers == 1 or len(cells) < 2:
            return self._here(cells)
        return self._in_pool(cells)

    def _here(self, cells: Sequence[Cell]) -> Iterator[Done]:
        if not cells:
            return
        with closing(self.factory(self.surroundings)) as backend:
            for cell in cells:
                yield _timed(backend, cell)

    def _in_pool(self, cells: Sequence[Cell]) -> Iterator[Done]:
        with ProcessPoolExecutor(
            min(self.workers, len(cells)),
            get_context("spawn"),
            _Worker.begin,
            (self.factory, self.surroundings, os.getpid()),
        ) as pool:
            running: set[Future[Done]] = {pool.submit(_Worker.run, cell) for cell in cells}
            try:
                while running:
                    ready, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ready:
                        yield future.result()
            except BrokenProcessPool as error:
                raise StateError(
                    "a worker process was killed; start again to go on where this ended"
                ) from error
            finally:
                for future in running:
                    future.cancel()


class _Worker:
    """Of a process of the pool: its back end, made once."""

    backend: ClassVar[Backend]

    @classmethod
    def begin(cls, factory: Factory, surroundings: Surroundings, parent: int) -> None:
        """In each process; it ends with its parent, however that ends."""
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        cls.backend = factory(surroundings)

    @classmethod
    def run(cls, cell: Cell) -> Done:
        return _timed(cls.backend, cell)


def _timed(backend: Backend, cell: Cell) -> Done:
    begun_s = time.monotonic()
    return cell, backend.run(cell), time.monotonic() - begun_s


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_LOOK_S)
    os._exit(1)


class _Shown:
    """A bar with the time left, told by the cells so far; lines where there is no terminal."""

    def __init__(self, console: Console, total: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            TimeElapsedColumn(),
        )
        self._console = console
        self._total = total
        self._done = 0
        self._begun_s = time.monotonic()
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.bar.add_task("cells", total=total, left="?")

    def tick(self, cell: Cell) -> None:
        """One more is done."""
        self._done += 1
        left_s = (time.monotonic() - self._begun_s) / self._done * (self._total - self._done)
        left = f"{int(left_s) // 60}:{int(left_s) % 60:02d}"
        self.bar.update(self._task, advance=1, description=cell.id, left=left)
        if not self._console.is_terminal:
            self._console.print(f"{self._done}/{self._total} {cell.id}, {left} left", highlight=False)
