"""The folder of a cell at work: its lock, the snapshot of its training, and the checkpoints offered so far.

It lies beside the records, as ``OUT/<dataset>/.work/<stem>/``, so that any process that may write the record
may also go on with it, on another machine as well. A run that is killed leaves it, and the next
one goes on from there; with the record written it has no more use, and goes.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write, not_written
from uss_bench.files.locks import is_locked, locked
from uss_bench.results.files import companions, is_done, record_path, refuse_foreign, work_folder
from uss_bench.results.record import Cell
from uss_bench.runtime import progress

SNAPSHOT = ".snapshot"
"""What the names of snapshots of training end with."""

ORDER = "order"
"""Names the order to run a cell again that has a record; it lies in the folder until that is done."""

_TRIES = 100
"""How often a folder is made again that another process removes in the same moment."""


@dataclass(frozen=True)
class Workspace:
    """Where the work on one cell lies."""

    folder: Path
    record: Path
    """Where the record will be."""

    @classmethod
    def of(cls, out: Path, cell: Cell) -> Workspace:
        return cls.beside(record_path(out, cell))

    @classmethod
    def beside(cls, record: Path) -> Workspace:
        return cls(work_folder(record), record)

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def is_busy(self) -> bool:
        """Whether a process is at work on the cell, as far as locks are seen from this machine."""
        return is_locked(self.lock)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the cell, waiting for the process that holds it.

        At the end the folder goes, unless the block failed and there is work in it to go on with.

        Raises:
            DataError: when the results folder cannot be written, or other files have the record's names.
        """
        with contextlib.ExitStack() as stack:
            try:
                refuse_foreign(self.record)
                self._lock_in(stack)
            except OSError as error:
                raise DataError(
                    f"Results cannot be written to {self.record.parent}: {error.strerror}.",
                    hint="Choose another folder with --out.",
                ) from None
            try:
                yield
            except BaseException:
                half_written = not self.record.exists() and companions(self.record)
                if self._is_done() or not (half_written or any(self.folder.glob(f"*{SNAPSHOT}"))):
                    self._remove()
                raise
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # when it was the last

    def _is_done(self) -> bool:
        """Whether the record is there, and is not one that is to be made again."""
        try:
            return is_done(self.record, (self.folder / ORDER).read_text())
        except (OSError, ValueError):  # no order, or none that can be read
            return is_done(self.record)

    def _lock_in(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder, which another process may remove in the same moment when it finishes."""
        for last in (*[False] * _TRIES, True):
            with contextlib.ExitStack() as taken:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    taken.enter_context(locked(self.lock, progress.log, "runs the same cell"))
                except FileNotFoundError:
                    if last:
                        raise
                    time.sleep(0.01)
                    continue
                if last or self.lock.exists():  # otherwise it is the lock of a folder that is gone
                    stack.enter_context(taken.pop_all())
                    return

    def tidy(self) -> None:
        """Remove the folder of a finished cell, as after a run that was killed in its last moment."""
        if not self._is_done() or self.is_busy():
            return
        if self.folder.exists():
            with self.claim():
                """The folder goes at the end."""
        else:
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()  # the very last that a kill can leave

    def begin(self, order: str) -> None:
        """Remove what a claimed folder holds of work done before, unless it was done under the same order.

        Raises:
            DataError: when the folder cannot be written.
        """
        mark = self.folder / ORDER
        with contextlib.suppress(OSError, ValueError):
            if mark.read_text() == order:
                return
        for path in self.folder.iterdir():
            if not path.name.startswith(self.lock.name):
                path.unlink() if path.is_file() else shutil.rmtree(path)
        try:
            atomic_write(mark, order.encode())
        except OSError as error:
            raise not_written(mark, error) from None
