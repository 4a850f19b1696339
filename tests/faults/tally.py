"""Counts of the faults that were tried, by kind, and of what became of each."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

FULL = bool(os.environ.get("USS_BENCH_FAULTS"))
"""Whether all faults are tried, as ``nox -s faults`` does, or a few, as in every run of the tests."""
SEED = int(os.environ.get("USS_BENCH_FAULTS_SEED", "0"))


full_only = pytest.mark.skipif(not FULL, reason="takes longer than the others: nox -s faults")


def share(full: int, few: int) -> int:
    """Return how many faults of a kind are tried in this run."""
    return full if FULL else few


def generator(purpose: str) -> random.Random:
    return random.Random(f"{SEED} {purpose}")


@dataclass
class Tally:
    """What became of every fault.

    A fault is *recovered* when all that must hold afterwards held: of the files, of what the user was
    told, and of what the same command gives once the fault is gone. Otherwise something was *lost*.
    """

    tried: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[str]] = field(default_factory=dict)

    @contextlib.contextmanager
    def fault(self, kind: str, what: str) -> Iterator[None]:
        """Count one fault; whatever the block raises is kept for `check`, so that the next one is tried."""
        self.tried[kind] += 1
        with self.again(kind, what):
            yield

    @contextlib.contextmanager
    def again(self, kind: str, what: str) -> Iterator[None]:
        """Check what faults that were counted already led to."""
        try:
            yield
        except Exception as error:
            told = f"{what}: {type(error).__name__}: {error}"
            self.lost.setdefault(kind, []).append(told)
            print(f"\nlost: {told[:1500]}")

    def check(self, kind: str) -> None:
        """Fail when anything of this kind was lost, or nothing was tried."""
        assert self.tried[kind], f"no fault of the kind '{kind}' was tried"
        lost = self.lost.get(kind, [])
        told = "\n\n".join(one[:1500] for one in lost[:40])
        assert not lost, f"{kind}: {len(lost)} of {self.tried[kind]} lost:\n{told}"

    def table(self) -> str:
        """Return the counts as a Markdown table."""
        rows = [
            f"| {kind} | {tried} | {tried - len(self.lost.get(kind, []))} | {len(self.lost.get(kind, []))} |"
            for kind, tried in self.tried.items()
        ]
        total, lost = self.tried.total(), sum(map(len, self.lost.values()))
        rows.append(f"| **all** | **{total}** | **{total - lost}** | **{lost}** |")
        return "\n".join(["| Fault | Tried | Recovered | Lost |", "|---|---:|---:|---:|", *rows])
