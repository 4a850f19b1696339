"""Seconds and peak memory of the phases of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from uss_bench.results.record import Phase

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_HIGH_WATER_MARK = "5"
"""See proc(5): the high-water mark of resident memory becomes what is resident now."""


class Clock:
    """Seconds and peak memory per phase; what an inner phase takes does not count for the outer one."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self._open: list[_OpenPhase] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._note_peak()
        current = _OpenPhase(name, time.perf_counter())
        self._open.append(current)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - current.start
            self._note_peak()
            self._open.pop()
            if self._open:
                self._open[-1].inner += elapsed
            self.credit(name, elapsed - current.inner, current.peak)

    def credit(self, name: str, seconds: float, peak: int | None) -> None:
        """Add to a phase, such as what it took before an interruption."""
        known = self.phases.get(name)
        seconds += known.seconds if known else 0.0
        peaks = [one for one in (peak, known.peak_bytes if known else None) if one is not None]
        self.phases[name] = Phase(seconds=seconds, peak_bytes=max(peaks, default=None))

    def absorb(self, phases: Mapping[str, Phase], *, credited: float) -> None:
        """Add what another process measured while the phase that is open here waited for it.

        Args:
            credited: seconds of that phase before an interruption.
        """
        current = self._open[-1]
        for name, one in phases.items():
            if name == current.name:
                current.peak = max(current.peak or 0, one.peak_bytes or 0) or None
            else:
                current.inner += one.seconds
                self.credit(name, one.seconds, one.peak_bytes)
        self.credit(current.name, credited, None)

    def so_far(self, name: str) -> tuple[float, int | None]:
        """Return the seconds and the peak memory of a phase, also while it goes on."""
        self._note_peak()
        now = time.perf_counter()
        known = self.phases.get(name)
        going_on = [one for one in self._open if one.name == name]
        seconds = (known.seconds if known else 0.0) + sum(now - one.start - one.inner for one in going_on)
        peaks = [one.peak for one in going_on] + [known.peak_bytes if known else None]
        return seconds, max((peak for peak in peaks if peak is not None), default=None)

    def _note_peak(self) -> None:
        """Note for the innermost phase what was used since the last note, and begin anew."""
        peak = take_peak()
        if self._open and peak is not None:
            self._open[-1].peak = max(self._open[-1].peak or 0, peak)


@dataclass
class _OpenPhase:
    name: str
    start: float
    inner: float = 0.0
    peak: int | None = None


def take_peak() -> int | None:
    """Return the largest memory in use since the last call, in bytes; on CUDA the allocator's is added.

    Returns:
        Resident memory of this process; None where the system cannot reset its high-water mark, as only
        Linux can: a mark of the process's whole life says nothing of a phase.
    """
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        _CLEAR_REFS.write_text(_RESET_HIGH_WATER_MARK)
    except (OSError, StopIteration):
        return None
    peak = int(line.split()[1]) * 1024
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    return peak
