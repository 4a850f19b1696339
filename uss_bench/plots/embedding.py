"""t-SNE of the codes of test patches: whether classes lie apart, and whether clusters follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from matplotlib.figure import Figure

from uss_bench import progress
from uss_bench.collection import Entry
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.geometry import Items, resize, scored_label
from uss_bench.inputs import assemble
from uss_bench.panels import cluster_colours
from uss_bench.plots import style
from uss_bench.plots.selection import describe_entries
from uss_bench.plots.trained import Trained
from uss_bench.records import UNMATCHED

_PERPLEXITY = 30.0


@dataclass(frozen=True)
class Codes:
    """Codes of P labelled patches."""

    codes: np.ndarray
    """float32 (P, d)."""
    classes: np.ndarray
    """int64 (P,): the class of the pixel in the patch's centre."""
    clusters: np.ndarray
    """int64 (P,)."""


@dataclass(frozen=True)
class Cloud:
    """What one record's two panels show."""

    name: str
    points: np.ndarray
    """float32 (P, 2)."""
    class_colours: np.ndarray
    """uint8 (P, 3): of the true class of each point."""
    cluster_colours: np.ndarray
    """uint8 (P, 3): of the class that the point's cluster is matched to; grey without one."""


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
def patch_codes(trained: Trained, *, images: int, points: int, device: torch.device) -> Codes:
    """Embed evenly spaced test images, unflipped, and return at most `points` of their labelled patches.

    The patches are drawn by a generator of their own seed, so every method gets the same ones when
    its codes have the same resolution.

    Raises:
        UsageError: when the data has no labels.
        DataError: when fewer patches than t-SNE can use are labelled.
    """
    setup, method = trained.setup, trained.method
    if setup.test_labels is None:
        raise UsageError(f"'{setup.dataset.name}' has no labels to colour an embedding by.")
    items = Items.for_evaluation(setup.test_images, setup.protocol, patch=setup.backbone.patch)
    store = setup.open_store(
        device,
        budget=0,  # features that are not there are not stored for a picture
        log=lambda message: None,
    )
    features = store.open(items, setup.spec.facets) if setup.spec.facets else None
    total = items.unflipped
    rows = [index * total // min(images, total) for index in range(min(images, total))]
    codes, classes, clusters = [], [], []
    for row in progress.track(rows, total=len(rows), label="embed"):
        with blame(f"Method '{setup.spec.name}'", "embedding"):
            code = method.embed(assemble(setup.spec.inputs, items, features, [row], device))
            assigned = method.classify(code).argmax(dim=1)[0].cpu().numpy()
        height, width = assigned.shape
        label = resize(scored_label(setup.test_labels.label(row), setup.protocol), height, width, "nearest")
        labelled = label >= 0
        codes.append(code[0].permute(1, 2, 0).cpu().numpy()[labelled])
        classes.append(label[labelled])
        clusters.append(assigned[labelled])
    there = sum(len(one) for one in classes)
    if there <= 3 * _PERPLEXITY:
        raise DataError(f"Only {there} patches are labelled: too few for t-SNE.", hint="Raise --images.")
    chosen = np.sort(np.random.default_rng(0).permutation(there)[:points])
    return Codes(
        np.concatenate(codes)[chosen].astype(np.float32),
        np.concatenate(classes)[chosen].astype(np.int64),
        np.concatenate(clusters)[chosen].astype(np.int64),
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
    palette = np.array([row.colour for row in entry.record.classes], dtype=np.uint8)
    of_cluster = cluster_colours(entry.record, entry.arrays, "last", "raw")
    return Cloud(
        name, reduction.fit_transform(directions), palette[found.classes], of_cluster[found.clusters]
    )


def draw(clouds: Sequence[Cloud], legend: Sequence[tuple[str, tuple[int, int, int]]]) -> Figure:
    """Draw clouds, one column each: coloured by true class above, by matched cluster below."""
    width: style.Width = "column" if len(clouds) < 3 else "page"
    side = (style.WIDTHS[width] - 0.2) / max(len(clouds), 2)
    names = [name for name, _ in legend]
    height = (
        (1 if len(clouds) == 1 else 2) * side + 0.25 + 0.17 * style.legend_rows(names, style.WIDTHS[width])
    )
    with style.figure(width, height) as canvas:
        # A single cloud has its two panels side by side.
        alone = len(clouds) == 1
        panels = canvas.subplots(1, 2, squeeze=False).T if alone else canvas.subplots(2, len(clouds))
        for column, one in enumerate(clouds):
            if not alone:
                panels[0, column].set_title(one.name)
            for axes, colours in zip(
                panels[:, column], (one.class_colours, one.cluster_colours), strict=True
            ):
                axes.scatter(*one.points.T, s=2.5, c=colours / 255, linewidths=0)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(True)
                axes.spines[:].set_color("#CCCCCC")
                axes.set_box_aspect(1)
        for axes, title in zip(panels[:, 0], ("true class", "cluster's class"), strict=True):
            name = axes.set_title if alone else axes.set_ylabel
            name(title)
        handles = [
            panels[0, 0].scatter([], [], s=16, color=np.array(colour) / 255, linewidths=0)
            for _, colour in legend
        ]
        style.legend_below(canvas, handles, names)
        return canvas


def legend(entry: Entry) -> list[tuple[str, tuple[int, int, int]]]:
    """Return names and colours of a record's classes, and the grey of unmatched clusters if it has any."""
    row = entry.record.last
    unmatched = row is not None and UNMATCHED in row.raw.class_of_cluster
    classes = [(one.name, one.colour) for one in entry.record.classes]
    return [*classes, *([("unmatched cluster", (172, 172, 172))] if unmatched else [])]


def caption(shown: Sequence[tuple[str, Entry]], clouds: Sequence[Cloud]) -> str:
    return (
        f"t-SNE of the codes of {len(clouds[0].points)} test patches (cosine, perplexity {_PERPLEXITY:g}), "
        "by true class and by the class that the cluster is matched to. "
        f"{describe_entries([entry for _, entry in shown])}."
    )
