"""What a plan will cost: seconds per phase from runs that are comparable, and bytes by arithmetic.

A phase is estimated from runs of the same kind on the same kind of device, per unit of its work:

=========== ============================= ==========================================================
phase       per                           comparable runs share
=========== ============================= ==========================================================
extract     pixel through the backbone    backbone and both sides of the protocol
train       step                          method, backbone, training side, batch size
candidates  image and checkpoint          method, backbone, evaluation side
evaluate    image                         method, K, side, CRF or none; else any trained method's
monitor     state                         method, backbone, training side
=========== ============================= ==========================================================

Where there are none, the phase is said not to be measured, and no figure is given for it. The store's bytes
are exact: items × values × bytes per value.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

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

    @property
    def pixels_left(self) -> float | None:
        """Pixels that are still to go through the backbone; None where that happens in every run."""
        left = 1 - min(self.present / self.bytes, 1.0) if self.bytes else 0.0
        return None if self.streamed else left * self.items * self.side**2


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """What the cost of a cell depends on."""

    method: str
    dataset: str
    backbone: str
    train_side: int
    eval_side: int
    whole: bool
    refined: bool
    clusters: int
    steps: int | None
    batch_size: int | None
    candidates: int | None
    """Checkpoints that will be scored, the last one included; 0 without labels, None if not known."""
    images: int
    extractions: tuple[Extraction, ...]
    is_trained: bool = False
    """Whether its trained state is kept, or another cell of the plan makes it: nothing is trained for it."""

    @property
    def streamed(self) -> bool:
        return any(one.streamed for one in self.extractions)

    @property
    def trains(self) -> bool:
        """Whether it is more than a floor, which looks at no feature and takes no step."""
        return bool(self.extractions) or self.steps is not None


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
    costs = list(costs)
    timed = [cost for cost in costs if cost.device == device]
    found = Estimate(cells=len(sizes), record_bytes=Range(), state_bytes=Range())
    used: dict[int, Cost] = {}

    def rate(alike: Callable[[Cost], bool], per_unit: Callable[[Cost], float | None]) -> Range | None:
        rates = [(cost, value) for cost in timed if alike(cost) and (value := per_unit(cost)) is not None]
        chosen = [one for one in rates if one[0].machine == machine] or rates
        used.update((id(cost), cost) for cost, _ in chosen)
        return _range([value for _, value in chosen])

    def add(phase: Phase, what: str, per_unit: Range | None, units: float | None) -> None:
        if units == 0 or (per_unit is not None and units is not None):
            more = per_unit * units if per_unit is not None and units else Range()
            found.seconds[phase] = found.seconds.get(phase, Range()) + more
        elif what not in found.unmeasured.setdefault(phase, []):
            found.unmeasured[phase].append(what)

    extracted: dict[tuple[str, tuple[str, ...]], Extraction] = {}
    for size, number in Counter(sizes).items():
        same = _Comparable(size)
        for one in size.extractions:
            if (one.key, one.facets) not in extracted:
                extracted[one.key, one.facets] = one
                per_pixel = rate(same("backbone", "train_side", "eval_side", "whole"), _seconds_per_pixel)
                add("extract", size.backbone, per_pixel, one.pixels_left)

        what = f"{size.method} with {size.backbone} at {size.train_side} px"
        batch = f", batch {size.batch_size}" if size.batch_size else ""
        # Without steps, training takes what it takes on these images; a floor does not look at them.
        images = ["dataset"] * (size.steps is None and size.trains)
        alike = same("method", "backbone", "train_side", "batch_size", *images)
        per_step = rate(
            lambda cost: alike(cost) and (cost.steps is None) == (size.steps is None),  # noqa: B023
            lambda cost: cost.train / (cost.steps or 1),
        )
        steps = 0 if size.is_trained else None if size.streamed else number * (size.steps or 1)
        add("train", f"{what}{batch}{', streamed' * size.streamed}", per_step, steps)

        if size.candidates != 0:
            states = size.candidates and number * size.candidates
            per_state = rate(same("method", "backbone", "eval_side", "whole"), _seconds_per_scored_image)
            add("candidates", what, per_state, states and states * size.images)
            per_point = rate(same("method", "backbone", "train_side"), _seconds_per_point)
            add("monitor", what, per_point, states)

        place = f"whole images of {size.dataset}" if size.whole else f"{size.eval_side} px"
        place += "" if size.refined else " without CRF"
        alike = same("clusters", "refined", "whole", "dataset" if size.whole else "eval_side")
        own = same("method")
        per_image = rate(lambda cost: alike(cost) and own(cost), _seconds_per_image)  # noqa: B023
        if per_image is None and size.trains:
            per_image = rate(lambda cost: alike(cost) and cost.points > 0, _seconds_per_image)  # noqa: B023
        add("evaluate", f"K = {size.clusters} on {place}", per_image, number * size.images)

        for name, bytes_of in (("record_bytes", _record_bytes), ("state_bytes", _state_bytes)):
            known = [(cost, value) for cost in costs if (value := bytes_of(cost, size)) is not None]
            of_method = [value for cost, value in known if cost.method == size.method]
            of_trained = [value for cost, value in known if size.trains and cost.points]
            total, more = getattr(found, name), _range(of_method or of_trained)
            setattr(found, name, None if total is None or more is None else total + more * number)
    found.extractions = list(extracted.values())
    found.runs = len(used)
    found.machines = sorted({cost.machine for cost in used.values()})
    return found


class _Comparable:
    """Makes tests of whether a run shares named fields with a cell."""

    def __init__(self, size: CellSize) -> None:
        self._size = size

    def __call__(self, *names: str) -> Callable[[Cost], bool]:
        wanted = [getattr(self._size, name) for name in names]
        return lambda cost: [getattr(cost, name) for name in names] == wanted


def _range(values: Sequence[float]) -> Range | None:
    return Range(min(values), statistics.median(values), max(values)) if values else None


def _seconds_per_pixel(cost: Cost) -> float | None:
    """Return the seconds of extraction per pixel that the backbone saw; None where that cannot be known.

    What was encoded beyond the test images and their mirror images was training items. A run that encoded no
    fewer items than its steps took may have streamed them, and then extraction is not where the time is.
    """
    tests = cost.images * (1 + cost.flip)
    if cost.whole or not tests <= cost.encoded < tests + (cost.steps or 0) * (cost.batch_size or 0):
        return None
    return cost.extract / (tests * cost.eval_side**2 + (cost.encoded - tests) * cost.train_side**2)


def _seconds_per_scored_image(cost: Cost) -> float | None:
    return cost.choose / (cost.images * cost.candidates) if cost.images and cost.candidates else None


def _seconds_per_point(cost: Cost) -> float | None:
    return cost.monitor / cost.points if cost.points else None


def _seconds_per_image(cost: Cost) -> float | None:
    return cost.evaluate / cost.images if cost.images else None


def _record_bytes(cost: Cost, size: CellSize) -> float | None:
    """Return the bytes of a record as large as `size`; runs with the same K and side are comparable."""
    if (cost.clusters, cost.eval_side, cost.whole) != (size.clusters, size.eval_side, size.whole):
        return None
    if cost.counts_bytes is None or cost.other_bytes is None or not cost.images:
        return None
    return cost.other_bytes + cost.counts_bytes / cost.images * size.images


def _state_bytes(cost: Cost, size: CellSize) -> float | None:
    """Return the bytes of a trained state; runs of the same method and backbone are comparable."""
    comparable = (cost.method, cost.backbone) == (size.method, size.backbone)
    return float(cost.state_bytes) if comparable and cost.state_bytes is not None else None
