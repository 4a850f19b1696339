"""Two golden results compared: whether a run moved, and where it moved most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.evaluation.scoring import score_under
from uss_bench.protocol import get_protocol
from uss_bench.regression.golden import Golden, Summary, Tolerance
from uss_bench.results.arrays import Arrays
from uss_bench.results.differences import CODE, Change, cell_fields, changes
from uss_bench.results.record import Refinement
from uss_bench.results.scores import REFINEMENTS
from uss_bench.runtime.formatting import shortened

_Result = tuple[Summary, Arrays]
_Curves = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class GoldenCheck:
    """One run, golden and measured."""

    name: str
    method: str
    moved: bool
    """Whether it moved further than it may."""
    pixels: float
    """Share of pixels that got another cluster, the larger of raw and refined."""
    accuracy: float
    """Points of accuracy gained, raw or refined, whichever moved more."""
    miou: float
    details: tuple[str, ...]
    """What differs, and what moved most, in words."""


def compare_golden(golden: Golden, measured: Golden, tolerance: Tolerance) -> list[GoldenCheck]:
    """Compare every run: exactly where both were made on one machine, else within a tolerance.

    A run that only one of the two has counts as moved, and so does one with other inputs.
    """
    exact = golden.environment == measured.environment
    found = []
    for name in {**golden.results, **measured.results}:
        before, after = golden.results.get(name), measured.results.get(name)
        if before and after:
            found.append(_compare(name, before, after, None if exact else tolerance.of(name)))
        elif known := before or after:
            text = "the plan lacks it" if before else "the plan has it, and the golden files do not"
            found.append(GoldenCheck(name, known[0].cell.method.name, True, 1.0, 0.0, 0.0, (text,)))
    return found


def _compare(name: str, before: _Result, after: _Result, tolerance: Tolerance | None) -> GoldenCheck:
    (old, past), (new, now) = before, after
    method = new.cell.method.name
    inputs = tuple(
        f"{one.field} is {shortened(one.after)} and was {shortened(one.before)}"
        for one in input_changes(old, new)
    )
    pairs = [
        (first[key], second[key])
        for first, second in ((past.maps, now.maps), (past.counts, now.counts))
        for key in first
    ]
    if (past.image_ids, past.map_ids) != (now.image_ids, now.map_ids) or any(
        first.shape != second.shape for first, second in pairs
    ):
        details = inputs or ("its images or clusters differ",)
        return GoldenCheck(name, method, True, 1.0, 0.0, 0.0, details)
    shares = {one: disagreement(past.maps["last", one], now.maps["last", one]) for one in REFINEMENTS}
    pixels = max(float(share.mean()) for share in shares.values())
    accuracy, miou = (
        max((second[one] - first[one] for one in first), key=abs)
        for first, second in ((old.accuracy, new.accuracy), (old.miou, new.miou))
    )
    if tolerance is None:
        moved = old.curves != new.curves or not all(np.array_equal(*pair) for pair in pairs)
    else:
        moved = pixels > tolerance.pixels or max(abs(accuracy), abs(miou)) > tolerance.points
    details = (*inputs, *_most_moved(before, after, shares)) if moved or inputs else ()
    return GoldenCheck(name, method, bool(moved or inputs), pixels, accuracy, miou, details)


def input_changes(before: Summary, after: Summary) -> list[Change]:
    """Return in what the inputs of two runs differ, the method's code aside, which may change."""
    found = changes(cell_fields(before.cell), cell_fields(after.cell))
    return [one for one in found if one.field != CODE]


def disagreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return, per image, the share of pixels that are in another cluster, float64 (M,).

    Clusters are first matched one to one, so that mere renumbering is no disagreement.

    Args:
        before: cluster indices (M, H, W).
        after: cluster indices of the same shape.
    """
    clusters = int(max(before.max(), after.max())) + 1
    flat = before.astype(np.int64).ravel() * clusters + after.ravel()
    overlap = np.bincount(flat, minlength=clusters**2).reshape(clusters, clusters)
    _, renamed = linear_sum_assignment(overlap, maximize=True)
    different: np.ndarray = (renamed[before] != after).mean(axis=(1, 2))
    return different


def _most_moved(before: _Result, after: _Result, shares: Mapping[Refinement, np.ndarray]) -> Iterator[str]:
    """Yield where a curve parts, the class whose IoU moved most, and the image that did."""
    (old, past), (new, now) = before, after
    yield from _parting(old.curves, new.curves)
    refinement = max(REFINEMENTS, key=lambda one: float(shares[one].mean()))
    what = "raw" if refinement == "raw" else "with CRF"
    protocol = get_protocol(new.cell.protocol)
    first, second = (
        100 * np.nan_to_num(score_under(one.counts["last", refinement], protocol).iou) for one in (past, now)
    )
    index = int(np.abs(second - first).argmax())
    if first[index] != second[index]:
        yield (
            f"class that moved most: {new.classes[index]}, "
            f"IoU {first[index]:.1f} → {second[index]:.1f} {what}"
        )
    image = int(shares[refinement].argmax())
    if share := shares[refinement][image]:
        yield f"image that moved most: {now.map_ids[image]}, {share:.1%} of its pixels {what}"


def _parting(before: _Curves, after: _Curves) -> Iterator[str]:
    """Yield the earliest point at which a training curve is another one."""
    partings = [
        (step, name, value, now)
        for name in before
        for (step, value), (_, now) in zip(before[name], after.get(name, []), strict=False)
        if value != now
    ]
    if partings:
        step, name, value, now = min(partings)
        yield f"training parts at step {step} or before: '{name}' {value:.6g} → {now:.6g}"
    elif before != after:  # what both report is equal, so one reports more
        yield "it reports other curves"
