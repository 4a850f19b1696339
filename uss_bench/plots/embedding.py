"""t-SNE of the codes of test patches: whether classes lie apart, and whether clusters follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from matplotlib.figure import Figure

from uss_bench.data.geometry import resize, scored_label
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.experiment.restoring import Restored
from uss_bench.features.inputs import assemble
from uss_bench.plots import colors, style
from uss_bench.results.collection import Entry
from uss_bench.results.selection import describe_entries
from uss_bench.runtime import progress

_PERPLEXITY = 30.0


@dataclass(frozen=True)
class Codes:
    """Codes of P labeled patches."""

    codes: np.ndarray
    """float32 (P, d)."""
    classes: np.ndarray
    """int64 (P,): the class of the pixel in the patch's center."""
    clusters: np.ndarray
    """int64 (P,)."""


@dataclass(frozen=True)
class Cloud:
    """What one record's two panels show."""

    name: str
    points: np.ndarray
    """float32 (P, 2)."""
    class_colors: np.ndarray
    """uint8 (P, 3): of the true class of each point."""
    cluster_colors: np.ndarray
    """uint8 (P, 3): of the class that the point's cluster is matched to; gray without one."""


def require_sklearn() -> ModuleType:
    """Return scikit-learn's module of t-SNE.

    Raises:
        UsageError: when scikit-learn is not installed.
    """
    try:
        import sklearn.manifold
    except ImportError:
        raise UsageError(
            "t-SNE needs scikit-learn, which is not installed.", hint='pip install "uss-bench[plots]"'
        ) from None
    module: ModuleType = sklearn.manifold
    return module


@torch.no_grad()
def patch_codes(trained: Restored, *, images: int, points: int, device: torch.device) -> Codes:
    """Embed evenly spaced test images, unflipped, and return at most `points` of their labeled patches.

    The patches are drawn by a generator of their own seed, so every method gets the same ones when
    its codes have the same resolution.

    Raises:
        UsageError: when the data has no labels.
        DataError: when fewer patches than t-SNE can use are labeled.
    """
    setup, method = trained.setup, trained.method
    if setup.test_labels is None:
        raise UsageError(f"'{setup.dataset.name}' has no labels to color an embedding by.")
    items = setup.evaluation_items()
    # Features that the store lacks are not kept for a picture.
    store = setup.open_store(device, budget=0, log=lambda message: None)
    features = store.open(items, setup.facets) if setup.facets else None
    count = min(images, items.unflipped)
    rows = [index * items.unflipped // count for index in range(count)]
    found = []
    for row in progress.track(rows, total=count, label="embed"):
        with blame(f"Method '{setup.spec.name}'", "embedding"):
            code = method.embed(assemble(setup.inputs, items, features, [row], device))
            assigned = method.classify(code).argmax(dim=1)[0].cpu().numpy()
        height, width = assigned.shape
        label = resize(scored_label(setup.test_labels.label(row), setup.protocol), height, width, "nearest")
        labeled = label >= 0
        found.append((code[0].permute(1, 2, 0).cpu().numpy()[labeled], label[labeled], assigned[labeled]))
    codes, classes, clusters = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(codes) <= 3 * _PERPLEXITY:
        raise DataError(f"Only {len(codes)} patches are labeled: too few for t-SNE.", hint="Raise --images.")
    chosen = np.sort(np.random.default_rng(0).permutation(len(codes))[:points])
    return Codes(
        codes[chosen].astype(np.float32), classes[chosen].astype(np.int64), clusters[chosen].astype(np.int64)
    )


def cloud(name: str, entry: Entry, found: Codes) -> Cloud:
    """Project codes to the plane by t-SNE on their directions: cosine is what these methods compare by.

    Raises:
        UsageError: when scikit-learn is not installed, or all codes point one way.
    """
    manifold = require_sklearn()
    directions = found.codes / np.maximum(np.linalg.norm(found.codes, axis=1, keepdims=True), 1e-12)
    if np.ptp(directions, axis=0).max() < 1e-6:
        raise UsageError(f"All codes of {name} point one way: there is nothing to see.")
    reduction = manifold.TSNE(
        perplexity=_PERPLEXITY, init="pca" if directions.shape[1] > 1 else "random", random_state=0
    )
    palette = np.array([row.color for row in entry.record.classes], dtype=np.uint8)
    of_cluster = colors.cluster_colors(entry.record, entry.arrays, "raw")
    return Cloud(
        name, reduction.fit_transform(directions), palette[found.classes], of_cluster[found.clusters]
    )


def draw(clouds: Sequence[Cloud], legend: Sequence[tuple[str, colors.Color]]) -> Figure:
    """Draw clouds, one column each: colored by true class above, by matched cluster below."""
    width: style.Width = "column" if len(clouds) < 3 else "page"
    side = (style.WIDTHS[width] - 0.2) / max(len(clouds), 2)
    names = [name for name, _ in legend]
    alone = len(clouds) == 1  # then the two panels stand side by side
    height = (1 if alone else 2) * side + 0.25 + 0.17 * style.legend_rows(names, style.WIDTHS[width])
    with style.figure(width, height) as canvas:
        panels = canvas.subplots(1, 2, squeeze=False).T if alone else canvas.subplots(2, len(clouds))
        for column, one in enumerate(clouds):
            if not alone:
                panels[0, column].set_title(one.name)
            for axes, of_point in zip(panels[:, column], (one.class_colors, one.cluster_colors), strict=True):
                axes.scatter(*one.points.T, s=2.5, c=of_point / 255, linewidths=0)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, color="#CCCCCC")
                axes.set_box_aspect(1)
        for axes, title in zip(panels[:, 0], ("true class", "cluster's class"), strict=True):
            name = axes.set_title if alone else axes.set_ylabel
            name(title)
        handles = [
            panels[0, 0].scatter([], [], s=16, color=np.array(color) / 255, linewidths=0)
            for _, color in legend
        ]
        style.legend_below(canvas, handles, names)
        return canvas


def caption(shown: Sequence[tuple[str, Entry]], clouds: Sequence[Cloud]) -> str:
    return (
        f"t-SNE of the codes of {len(clouds[0].points)} test patches (cosine, perplexity {_PERPLEXITY:g}), "
        "by true class and by the class that the cluster is matched to. "
        f"{describe_entries([entry for _, entry in shown])}."
    )
