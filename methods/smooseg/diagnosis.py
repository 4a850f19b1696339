"""SmooSeg's shifts judged without labels: the closeness of frozen features, and the smoothness degree.

The method's loss (Eq. 4) is the mean of (W − b)·δ over pairs of patches within an image and across two.
Closeness W comes from frozen features, δ = 1 − cos(A_p, A_q) from the learned assignment A. A pair with
W > b is pulled together and any other is pushed apart, so b decides how smooth a labeling becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor

from uss_bench.experiment.diagnosis import Subject
from uss_bench.nn.standardizer import Standardizer
from uss_bench.plots import style

BINS = 100
NEAR = 0.1
"""How far from 0 or 1 a smoothness degree still counts for that end."""


def shifts(subject: Subject) -> tuple[str, Figure]:
    """Show which pairs of patches b_intra and b_inter pull together, and what training made of them."""
    params, chosen = subject.params, subject.sample
    standardizer = Standardizer(subject.features[0]["tokens"].shape[0])
    if params["standardize"]:
        standardizer.fit(subject.features.moments("tokens"))
    images = {i: standardizer(subject.features[i]["tokens"][None])[0].flatten(1) for i in chosen}
    half = -(-len(chosen) // 2)
    partners = [*chosen[half:], *chosen[:half]]  # far apart, so that no crop meets one of its own image
    offset = params["global_offset"]
    within = closeness(images, [(i, i) for i in chosen], params["b_intra"], global_offset=offset)
    pairs = list(zip(chosen, partners, strict=True))
    across = closeness(images, pairs, params["b_inter"], global_offset=offset)
    kinds = {"within images": within, "across images": across}
    rows = [
        (name, f"{one.mean:+.3f}", f"{one.shift:+.3f}", f"{one.pulled:.1%}") for name, one in kinds.items()
    ]
    gap = margin(within, across)
    lines = [
        tabulate(rows, headers=["closeness W", "mean", "shift b", "pairs pulled together (W > b)"]),
        f"\nMargin {gap:+.3f} (sum of shifts less sum of means): labeling all patches "
        f"{'apart' if gap > 0 else 'alike'} is the cheaper extreme.",
    ]
    if gap <= 0:
        lifted = params["b_inter"] - gap
        lines.append(f"Expect a collapse; b_inter above {lifted:.2f} lifts the margin above 0.")
    degree = _degree(subject)
    if degree is None:
        lines.append("There is no record with these options here: no smoothness degree.")
    else:
        lines.append(
            f"Smoothness degree within images: {degree.smooth:.1%} of pairs below 0.1, {degree.apart:.1%} "
            f"above 0.9; bimodality {degree.bimodality:.2f}."
        )
    return "\n".join(lines), draw(within, across, degree)


@dataclass(frozen=True)
class Closeness:
    """Closeness of one kind of pairs, within images or across them, against its shift.

    `counts` are of `edges`, which span the values that occur; `mean` is that of W over all pairs.
    """

    shift: float
    mean: float
    pulled: float
    """Share of pairs with W > b."""
    counts: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Degree:
    """The smoothness degree δ of all pairs of patches within images (Fig. 8)."""

    smooth: float
    """Share of pairs with δ < 0.1: labeled alike."""
    apart: float
    """Share of pairs with δ > 0.9."""
    counts: np.ndarray
    edges: np.ndarray

    @property
    def bimodality(self) -> float:
        """4 · smooth · apart: 1 for two equal peaks at 0 and 1, 0 where either is missing."""
        return 4 * self.smooth * self.apart


def margin(within: Closeness, across: Closeness) -> float:
    """Return b₁ + b₂ − (mean W within + mean W across).

    The loss of a labeling in which all patches are alike (δ = 0) is 0; if all were different (δ = 1) it
    would be minus this margin. Below 0 the labeling that is constant everywhere is the cheaper extreme.
    """
    return within.shift + across.shift - within.mean - across.mean


def closeness(
    images: Mapping[int, Tensor], pairs: Iterable[tuple[int, int]], shift: float, *, global_offset: bool
) -> Closeness:
    """Return the closeness of all pairs of patches of some pairs of images.

    W_pq = x_p·y_q − mean_q(x_p·y_q) + g, with g the mean similarity over all pairs, or 0: Eq. 2, and what
    the released code adds.

    Args:
        images: features (D, N) by index; they are normalized here.
        pairs: which images are compared; an image with itself for pairs within.
    """
    unit = {index: F.normalize(features, dim=0, eps=1e-10) for index, features in images.items()}
    chosen = list(pairs)
    means = [float(unit[i].mean(dim=1) @ unit[j].mean(dim=1)) for i, j in chosen]
    offset = sum(means) / len(means) if global_offset else 0.0

    def values() -> Iterator[Tensor]:
        for i, j in chosen:
            similarity = unit[i].T @ unit[j]
            yield similarity - similarity.mean(dim=1, keepdim=True) + offset

    ends = [torch.stack(torch.aminmax(value)).numpy() for value in values()]
    edges = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    pulled = total = 0
    for value in values():
        counts += np.histogram(value.numpy(), edges)[0]
        pulled += int((value > shift).sum())
        total += value.numel()
    # Centering makes the mean of every row 0, so what is left of the mean is the offset.
    return Closeness(shift, offset, pulled / total, counts, edges)


def smoothness_degree(assignments: Iterable[Tensor]) -> Degree:
    """Return δ = 1 − cos(A_p, A_q) of all pairs of patches within each image.

    Args:
        assignments: A of each image, softmax probabilities (K, N).
    """
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    smooth = apart = total = 0
    for assignment in assignments:
        unit = F.normalize(assignment, dim=0)
        degree = (1 - unit.T @ unit).clamp(0, 1)
        counts += np.histogram(degree.numpy(), edges)[0]
        smooth += int((degree < NEAR).sum())
        apart += int((degree > 1 - NEAR).sum())
        total += degree.numel()
    return Degree(smooth / total, apart / total, counts, edges)


def _degree(subject: Subject) -> Degree | None:
    """Return the smoothness degree of the trained method; None where there is none."""
    method = subject.trained
    if method is None:
        return None
    logits = (
        method.classify(method.embed(subject.features.batch([i])))[0].flatten(1).cpu() for i in subject.sample
    )
    return smoothness_degree(torch.softmax(one / subject.params["tau"], dim=0) for one in logits)


def draw(within: Closeness, across: Closeness, degree: Degree | None) -> Figure:
    """Draw the histograms of closeness, a dashed line at each shift, and δ beside them if there is one."""
    with style.figure("page" if degree else "column", 2.3) as canvas:
        panels = canvas.subplots(1, 2 if degree else 1, squeeze=False)[0]
        for index, (name, kind) in enumerate((("within images", within), ("across images", across))):
            color = style.color(index)
            shares = kind.counts / kind.counts.sum()
            label = f"{name}, {kind.pulled:.0%} above b"
            panels[0].stairs(shares, kind.edges, color=color, linewidth=1.2, label=label)
            panels[0].axvline(kind.shift, color=color, linestyle="--", linewidth=0.8)
        panels[0].set(xlabel="closeness W of frozen features; dashed: b", ylabel="share of pairs")
        panels[0].set_ylim(0, 1.35 * panels[0].get_ylim()[1])  # room for the legend
        panels[0].legend(loc="upper right", frameon=True, framealpha=1, edgecolor="white")
        if degree is not None:
            shares = degree.counts / degree.counts.sum()
            panels[1].stairs(shares, degree.edges, color=style.color(2), fill=True)
            panels[1].set(xlabel="smoothness degree δ within images", ylabel="share of pairs")
            panels[1].set_title(f"bimodality {degree.bimodality:.2f}", loc="left")
        return canvas
