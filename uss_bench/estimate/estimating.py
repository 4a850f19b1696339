"""What a plan will cost: seconds per phase from runs that are comparable, and bytes by arithmetic.

A phase is estimated from runs of the same kind on the same kind of device, per unit of its work:

=========== ============================= ==========================================================
phase       per                           comparable runs share
=========== ============================= ==========================================================
extract     pixel through the backbone    backbone and both sides of the protocol
train       step                          method, backbone, training side, batch size
candidates  image and checkpoint          method, backbone, evaluation side
evaluate    image                         method, K, evaluation side; else any trained method's
monitor     state                         method, backbone, training side
=========== ============================= ==========================================================

Where there are none, the phase is said not to be measured, and no figure is given for it. The store's bytes
are exact: items × values × bytes per value.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from uss_bench.collection import FLOORS
from uss_bench.estimate.costs import Cost

Phase = Literal["extract", "train", "candidates", "evaluate", "monitor"]
PHASES: tuple[Phase, ...] = ("extract", "train", "candidates", "evaluate", "monitor")


@dataclass(frozen=True)
class Range:
    """A sum of estimates: what the middle, the least and the most of the comparable runs give."""

    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class Extraction:
    """The features of one split under one protocol, which any number of cells share."""

    key: str
    """Of the feature store; equal keys are one extraction."""
    facets: tuple[str, ...]
    side: int
    items: int
    item_bytes: int
    present: int = 0
    """Bytes that lie in the store already."""
    streamed: str = ""
    """Why it will not be stored; empty if it will."""

    @property
    def bytes(self) -> int:
        return self.items * self.item_bytes


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """What the cost of a cell depends on."""

    method: str
    dataset: str
    backbone: str
    train_side: int
    eval_side: int
    whole: bool
    clusters: int
    steps: int | None
    batch_size: int | None
    candidates: int | None
    """Checkpoints that will be scored, the last one included; 0 without labels, None if not known."""
    images: int
    extractions: tuple[Extraction, ...]

    @property
    def streamed(self) -> bool:
        return any(one.streamed for one in self.extractions)


@dataclass
class Estimate:
    """What a plan will cost, as far as comparable runs say."""

    cells: int
    seconds: dict[Phase, Range] = field(default_factory=dict)
    """Of the phases of which anything was measured."""
    unmeasured: dict[Phase, list[str]] = field(default_factory=dict)
    """For what no comparable run was found."""
    machines: list[str] = field(default_factory=list)
    runs: int = 0
    """How many runs the estimate rests on."""
    extractions: list[Extraction] = field(default_factory=list)
    record_bytes: Range | None = None
    """Of all records, JSON and npz; None if not measured."""
    state_bytes: Range | None = None

    @property
    def total(self) -> Range:
        return sum(self.seconds.values(), Range())

    @property
    def store_bytes(self) -> int:
        return sum(one.bytes for one in self.extractions if not one.streamed)


def estimate(sizes: Sequence[CellSize], costs: Iterable[Cost], *, device: str, machine: str = "") -> Estimate:
    """Estimate what cells will cost.

    Args:
        sizes: of the cells that are still to run.
        costs: of runs that were measured.
        device: ``cpu`` or the GPU's name; runs on another device are not comparable.
        machine: of this machine, as `Cost.machine`; its own runs, where there are any, come first.
    """
    return _Estimator(list(costs), device, machine).estimate(sizes)


_ByteRate = Callable[[Cost, CellSize], float | None]


class _Estimator:
    def __init__(self, costs: Sequence[Cost], device: str, machine: str) -> None:
        self._costs = costs  # bytes are the same on every device
        self._timed = [cost for cost in costs if cost.device == device]
        self._machine = machine
        self._used: dict[int, Cost] = {}

    def estimate(self, sizes: Sequence[CellSize]) -> Estimate:
        found = Estimate(cells=len(sizes))
        extracted: dict[tuple[str, tuple[str, ...]], Extraction] = {}
        alike = Counter(sizes)
        for size, number in alike.items():
            for one in size.extractions:
                if (one.key, one.facets) not in extracted:
                    extracted[one.key, one.facets] = one
                    self._add(found, "extract", size.backbone, self._extraction(size, one))
            self._add_cells(found, size, number)
        found.extractions = list(extracted.values())
        found.record_bytes = self._bytes(alike, _record_rate)
        found.state_bytes = self._bytes(alike, _state_rate)
        found.runs = len(self._used)
        found.machines = sorted({cost.machine for cost in self._used.values()})
        return found

    def _add_cells(self, found: Estimate, size: CellSize, number: int) -> None:
        what = f"{size.method} with {size.backbone} at {size.train_side} px"
        batch = f", batch {size.batch_size}" if size.batch_size else ""
        streamed = ", streamed" if size.streamed else ""
        self._add(found, "train", f"{what}{batch}{streamed}", self._training(size), number)
        if size.candidates != 0:
            self._add(found, "candidates", what, self._choosing(size), number)
            self._add(found, "monitor", what, self._monitoring(size), number)
        place = f"whole images of {size.dataset}" if size.whole else f"{size.eval_side} px"
        self._add(found, "evaluate", f"K = {size.clusters} on {place}", self._evaluation(size), number)

    @staticmethod
    def _add(found: Estimate, phase: Phase, what: str, seconds: Range | None, number: int = 1) -> None:
        if seconds is not None:
            found.seconds[phase] = found.seconds.get(phase, Range()) + seconds * number
        elif what not in found.unmeasured.setdefault(phase, []):
            found.unmeasured[phase].append(what)

    def _extraction(self, size: CellSize, one: Extraction) -> Range | None:
        if one.streamed:
            return None
        left = 1 - min(one.present / one.bytes, 1.0) if one.bytes else 0.0
        if left == 0:
            return Range()
        rate = self._rate(
            _seconds_per_pixel,
            lambda cost: (
                (cost.backbone, cost.train_side, cost.eval_side, cost.whole)
                == (size.backbone, size.train_side, size.eval_side, size.whole)
            ),
        )
        return rate and rate * (left * one.items * one.side**2)

    def _training(self, size: CellSize) -> Range | None:
        if size.streamed:
            return None
        wanted = (size.method, size.backbone, size.train_side, size.batch_size)

        def fits(cost: Cost) -> bool:
            same = (cost.method, cost.backbone, cost.train_side, cost.batch_size) == wanted
            # Without steps, training takes what it takes on these images; a floor does not look at them.
            alike = size.steps is not None or size.method in FLOORS or cost.dataset == size.dataset
            return same and alike and (cost.steps is None) == (size.steps is None)

        rate = self._rate(lambda cost: cost.train / (cost.steps or 1), fits)
        return rate and rate * (size.steps or 1)

    def _choosing(self, size: CellSize) -> Range | None:
        rate = self._rate(
            lambda cost: cost.choose / (cost.images * cost.candidates) if cost.candidates else None,
            lambda cost: (
                (cost.method, cost.backbone, cost.eval_side, cost.whole)
                == (size.method, size.backbone, size.eval_side, size.whole)
            ),
        )
        if rate is None or size.candidates is None:
            return None
        return rate * (size.images * size.candidates)

    def _monitoring(self, size: CellSize) -> Range | None:
        rate = self._rate(
            lambda cost: cost.monitor / cost.points if cost.points else None,
            lambda cost: (
                (cost.method, cost.backbone, cost.train_side) == (size.method, size.backbone, size.train_side)
            ),
        )
        return None if rate is None or size.candidates is None else rate * size.candidates

    def _evaluation(self, size: CellSize) -> Range | None:
        def alike(cost: Cost) -> bool:
            same = (cost.clusters, cost.whole) == (size.clusters, size.whole)
            return same and (cost.dataset == size.dataset if size.whole else cost.eval_side == size.eval_side)

        def per_image(cost: Cost) -> float | None:
            return cost.evaluate / cost.images if cost.images else None

        rate = self._rate(per_image, lambda cost: alike(cost) and cost.method == size.method)
        if rate is None and size.method not in FLOORS:
            rate = self._rate(per_image, lambda cost: alike(cost) and cost.method not in FLOORS)
        return rate and rate * size.images

    def _bytes(self, alike: Mapping[CellSize, int], rate_of: _ByteRate) -> Range | None:
        """Add up bytes per record; None if there is a cell that no run says anything about."""
        total = Range()
        for size, number in alike.items():
            rates = [(cost, rate_of(cost, size)) for cost in self._costs]
            found = [(cost, rate) for cost, rate in rates if rate is not None]
            own = [rate for cost, rate in found if cost.method == size.method]
            trained = [rate for cost, rate in found if not {cost.method, size.method} & FLOORS]
            if not (own or trained):
                return None
            total += _range(own or trained) * number
        return total

    def _rate(self, rate: Callable[[Cost], float | None], fits: Callable[[Cost], bool]) -> Range | None:
        """Return the least, the middle and the most of a rate over comparable runs; None without any."""
        found = [(cost, value) for cost in self._timed if fits(cost) and (value := rate(cost)) is not None]
        chosen = [pair for pair in found if pair[0].machine == self._machine] or found
        self._used |= {id(cost): cost for cost, _ in chosen}
        return _range([value for _, value in chosen]) if chosen else None


def _range(values: Sequence[float]) -> Range:
    return Range(min(values), statistics.median(values), max(values))


def _seconds_per_pixel(cost: Cost) -> float | None:
    """Return the seconds of extraction per pixel that the backbone saw; None where that cannot be told.

    What was encoded beyond the test images and their mirror images was training items. A run that encoded no
    fewer items than its steps took may have streamed them, and then extraction is not where the time is.
    """
    tests = cost.images * (1 + cost.flip)
    if cost.whole or not tests <= cost.encoded < tests + (cost.steps or 0) * (cost.batch_size or 0):
        return None
    return cost.extract / (tests * cost.eval_side**2 + (cost.encoded - tests) * cost.train_side**2)


def _record_rate(cost: Cost, size: CellSize) -> float | None:
    """Return the bytes of a record as large as `size`; runs with the same K and side are comparable."""
    if (cost.clusters, cost.eval_side, cost.whole) != (size.clusters, size.eval_side, size.whole):
        return None
    if cost.counts_bytes is None or cost.other_bytes is None or not cost.images:
        return None
    return cost.other_bytes + cost.counts_bytes / cost.images * size.images


def _state_rate(cost: Cost, size: CellSize) -> float | None:
    """Return the bytes of a trained state; runs of the same method and backbone are comparable."""
    if cost.state_bytes is None or (cost.method, cost.backbone) != (size.method, size.backbone):
        return None
    return float(cost.state_bytes)
