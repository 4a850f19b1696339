"""Two golden results compared: whether a run moved, and where it moved most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.protocol import get_protocol
from uss_bench.records import Refinement
from uss_bench.regression.golden import Golden, Result
from uss_bench.regression.plan import Tolerance
from uss_bench.scoring import score_under


@dataclass(frozen=True)
class Comparison:
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
    """What is others, and what moved most, in plain words."""


def machines_differ(golden: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return in what two machines differ; where they do not, results must be the same bytes."""
    names = {**golden, **measured}
    return [
        f"{name} {measured.get(name)} instead of {golden.get(name)}"
        for name in names
        if golden.get(name) != measured.get(name)
    ]


def compare(golden: Golden, measured: Golden, tolerance: Tolerance) -> list[Comparison]:
    """Compare every run: exactly where both are of one machine, else within a tolerance.

    A run that is in one of the two only has moved, and so has one whose inputs are others.
    """
    exact = not machines_differ(golden.environment, measured.environment)
    found = []
    for name in {**golden.results, **measured.results}:
        before, after = golden.results.get(name), measured.results.get(name)
        if before is None or after is None:
            known = before or after
            assert known is not None
            text = "the plan has it, and the golden files have not" if before is None else "the plan lacks it"
            found.append(Comparison(name, known.summary.cell.method.name, True, 1.0, 0.0, 0.0, (text,)))
            continue
        found.append(_compare(name, before, after, None if exact else tolerance))
    return found


def _compare(name: str, before: Result, after: Result, tolerance: Tolerance | None) -> Comparison:
    inputs = tuple(input_differences(before, after))
    comparable = before.image_ids == after.image_ids and before.map_ids == after.map_ids
    comparable = comparable and all(
        before.maps[one].shape == after.maps[one].shape
        and before.counts[one].shape == after.counts[one].shape
        for one in before.maps
    )
    method = after.summary.cell.method.name
    if not comparable:
        return Comparison(name, method, True, 1.0, 0.0, 0.0, inputs or ("its images or clusters are others",))
    shares = {one: disagreement(before.maps[one], after.maps[one]) for one in before.maps}
    accuracy = _widest(before.summary.accuracy, after.summary.accuracy)
    miou = _widest(before.summary.miou, after.summary.miou)
    pixels = max(float(share.mean()) for share in shares.values())
    if tolerance is None:
        same = all(
            np.array_equal(before.maps[one], after.maps[one])
            and np.array_equal(before.counts[one], after.counts[one])
            for one in before.maps
        )
        moved = not same or before.summary.curves != after.summary.curves
    else:
        moved = pixels > tolerance.pixels or max(abs(accuracy), abs(miou)) > tolerance.points
    details = (*inputs, *_most_moved(before, after, shares)) if moved or inputs else ()
    return Comparison(name, method, bool(moved or inputs), pixels, accuracy, miou, details)


def input_differences(before: Result, after: Result) -> Iterator[str]:
    """Yield in what the inputs of two runs differ, the method's code aside: that may change."""
    first, second = (msgspec.to_builtins(one.summary.cell) for one in (before, after))
    for part in ("method", "dataset", "backbone"):
        first |= {f"{part} {key}": value for key, value in first.pop(part).items()}
        second |= {f"{part} {key}": value for key, value in second.pop(part).items()}
    first |= {f"parameter {key}": value for key, value in first.pop("method params").items()}
    second |= {f"parameter {key}": value for key, value in second.pop("method params").items()}
    for key in {**first, **second}:
        if key != "method code" and first.get(key) != second.get(key):
            yield f"{key} is {_short(second.get(key))} and was {_short(first.get(key))}"


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
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    renamed = np.empty(clusters, dtype=np.int64)
    renamed[rows] = columns
    different: np.ndarray = (renamed[before] != after).mean(axis=(1, 2))
    return different


def _most_moved(before: Result, after: Result, shares: Mapping[Refinement, np.ndarray]) -> Iterator[str]:
    """Yield where a curve parts, the class whose IoU moved most, and the image that did."""
    yield from _parting(before.summary.curves, after.summary.curves)
    refinement: Refinement = max(shares, key=lambda one: float(shares[one].mean()))
    what = "raw" if refinement == "raw" else "with CRF"
    protocol = get_protocol(after.summary.cell.protocol)
    first, second = (
        100 * np.nan_to_num(score_under(one.counts[refinement], protocol).iou) for one in (before, after)
    )
    index = int(np.abs(second - first).argmax())
    if first[index] != second[index]:
        name = after.summary.classes[index]
        yield f"class that moved most: {name}, IoU {first[index]:.1f} → {second[index]:.1f} {what}"
    image = int(shares[refinement].argmax())
    if share := shares[refinement][image]:
        yield f"image that moved most: {after.map_ids[image]}, {share:.1%} of its pixels {what}"


def _parting(
    before: Mapping[str, list[tuple[int, float]]], after: Mapping[str, list[tuple[int, float]]]
) -> Iterator[str]:
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
    elif {name: len(points) for name, points in before.items()} != {
        name: len(points) for name, points in after.items()
    }:
        yield "it reports other curves"


def _widest(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return max((after[name] - before[name] for name in before), key=abs)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
