"""Which jobs a plan's tasks became: kept in a file, for jobs outlive the command that submitted them.

``uss-bench status`` writes it too, with what it learns of jobs that SLURM will forget: a change is one of
what is there at that moment, under a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import filelock
import msgspec

from uss_bench.errors import DataError
from uss_bench.json_files import JSON_ERRORS
from uss_bench.launch.launcher import State
from uss_bench.paths import atomic_write


class Submitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a task that was submitted."""

    job: str
    """``12``, or ``12_3`` in an array."""
    at: str
    ended: State | None = None
    """What it came to, where only SLURM could say so; SLURM forgets jobs within minutes."""


class Ledger:
    """The jobs of a plan by the id of their task.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Submitted]:
        """Return all that was submitted.

        Raises:
            DataError: when the file is damaged, for jobs might then be submitted twice.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Submitted])
        except FileNotFoundError:
            return {}
        except (OSError, *JSON_ERRORS) as error:
            raise DataError(
                f"{self._path}, which says what was submitted, cannot be read: {error}.",
                hint="See 'squeue --me' for jobs that still run, cancel them, and remove the file.",
            ) from None

    def add(self, some: Mapping[str, Submitted]) -> None:
        """Add tasks, or replace what is known of those that were submitted before.

        Raises:
            OSError: when the file cannot be written.
            DataError: when it is damaged.
        """
        with self._locked():
            self._write({**self.read(), **some})

    def end(self, ended: Mapping[str, Submitted]) -> None:
        """Note what tasks came to, unless they were submitted again meanwhile.

        Raises:
            OSError: when the file cannot be written.
            DataError: when it is damaged.
        """
        with self._locked():
            known = self.read()
            same = {name: one for name, one in ended.items() if name in known and known[name].job == one.job}
            self._write({**known, **same})

    def _locked(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self._path.with_name(f"{self._path.name}.lock"))

    def _write(self, known: Mapping[str, Submitted]) -> None:
        content = msgspec.json.format(msgspec.json.encode(known), indent=1)
        atomic_write(self._path, content + b"\n")
