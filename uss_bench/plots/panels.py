"""Predictions on the same images, side by side, in the colors of the matched classes, as papers show them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from uss_bench.contracts import IGNORE, Images, Labels
from uss_bench.data.geometry import TransformedImages, scored_label
from uss_bench.errors import DataError, UsageError
from uss_bench.plots import colors, style
from uss_bench.results.collection import Entry
from uss_bench.results.files import read_record
from uss_bench.results.record import Refinement
from uss_bench.results.scores import REFINEMENTS
from uss_bench.results.selection import describe_entries

_SUFFIXES: dict[Refinement, str] = {"raw": "", "crf": "\n+ CRF"}
_GAP, _MARGIN, _LINE = 0.02, 0.48, 0.125
"""Inches between tiles, at least to the left of them, and for a line of a title."""
_SAME_DATA = "Give the same --dataset and --root as in the record's command (uss-bench show)."


@dataclass(frozen=True)
class Grid:
    """Rows of tiles with their titles, and the colors of the classes."""

    rows: tuple[tuple[str, tuple[np.ndarray, ...]], ...]
    """Each tile uint8 (H, W, 3)."""
    legend: tuple[tuple[str, colors.Color], ...]


def grid(
    shown: Sequence[tuple[str, Entry]],
    images: Images,
    labels: Labels | None,
    *,
    refinements: Sequence[Refinement] = ("crf",),
    count: int = 8,
) -> Grid:
    """Put images, ground truth and the kept maps of records, one after another, into rows.

    Args:
        shown: what the figure calls each record, and the record; all of one table.
        images, labels: the test split of the records.
        count: at most this many images, the first of those whose maps all records keep.

    Raises:
        UsageError: when the records keep no image in common.
        DataError: when images or labels are not those of the records, or a record lacks a refinement.
    """
    first = shown[0][1]
    for _, entry in shown:
        if entry.arrays.image_ids != list(images.ids):
            raise DataError(f"The images are not those that {entry.path} was made from.", hint=_SAME_DATA)
    kept = [name for name in first.arrays.map_ids if all(name in e.arrays.map_ids for _, e in shown)][:count]
    if not kept:
        raise UsageError("These records keep the maps of no image in common.")
    where = [images.ids.index(name) for name in kept]
    items = TransformedImages.for_evaluation(images, first.record.protocol)
    rows = [("image", tuple(items.scored(index) for index in where))]
    legend = colors.legend(entry for _, entry in shown)
    if labels is not None:
        truth = [scored_label(labels.label(index), first.record.protocol) for index in where]
        _check_labels(first, where, truth)
        palette = np.array([*(row.color for row in first.record.classes), colors.IGNORED], dtype=np.uint8)
        rows.append(("ground truth", tuple(palette[one] for one in truth)))
        if any((one == IGNORE).any() for one in truth):
            legend.append(("ignored", colors.IGNORED))
    for name, entry in shown:
        for refinement in refinements:
            maps = entry.arrays.maps.get(("last", refinement))
            if maps is None:
                raise DataError(f"{entry.path} keeps no {refinement} maps.")
            palette = colors.cluster_colors(entry.record, entry.arrays, refinement)
            tiles = tuple(palette[maps[entry.arrays.map_ids.index(one)]] for one in kept)
            rows.append((f"{name}{_SUFFIXES[refinement]}", tiles))
    return Grid(tuple(rows), tuple(legend))


def draw(found: Grid) -> Figure:
    """Draw a grid at the width of a page: a column per image, a row per kind of map."""
    page = style.WIDTHS["page"]
    across = len(found.rows[0][1])
    ratio = min(max(tile.shape[0] / tile.shape[1] for _, tiles in found.rows for tile in tiles), 1.5)
    margin, lines = _MARGIN, 0
    while True:  # more lines want a wider margin, which leaves smaller tiles, beside which a line is shorter
        wide = min((page - margin) / across - _GAP, 1.6)
        tall = wide * ratio
        titles = [_fitted(title, tall) for title, _ in found.rows]
        if (most := max(text.count("\n") + 1 for text, _ in titles)) <= lines:
            break
        lines, margin = most, max(_MARGIN, 0.1 + most * _LINE)
    names = [name for name, _ in found.legend]
    handles = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor=style.INK, linewidth=0.3)
        for _, (red, green, blue) in found.legend
    ]
    height = len(found.rows) * (tall + _GAP) + 0.2 + 0.17 * style.legend_rows(names, page)
    with style.figure("page", height) as canvas:
        canvas.set_layout_engine("none")
        left = (page - across * (wide + _GAP) + margin) / 2
        for row, (_, tiles) in enumerate(found.rows):
            bottom = height - (row + 1) * (tall + _GAP)
            for column, one in enumerate(tiles):
                x = left + column * (wide + _GAP)
                axes = canvas.add_axes((x / page, bottom / height, wide / page, tall / height))
                axes.imshow(one, interpolation="nearest" if row else "antialiased")
                axes.set_axis_off()
            text, size = titles[row]
            place = (left - 0.05) / page, (bottom + tall / 2) / height
            canvas.text(*place, text, rotation=90, ha="right", va="center", ma="center", fontsize=size)
        style.legend_below(canvas, handles, names)
        return canvas


def caption(shown: Sequence[tuple[str, Entry]]) -> str:
    who = ", ".join(name for name, _ in shown)
    return (
        f"Predictions of {who} in the colors of the matched classes. "
        f"{describe_entries([entry for _, entry in shown])}."
    )


def save_panel(path: Path, images: Images, labels: Labels | None) -> None:
    """Draw the images whose maps the record at `path` keeps, and write the picture beside it.

    Raises:
        DataError: when it cannot be written; nothing half-written stays.
    """
    entry = Entry(path, read_record(path))
    kinds = [kind for kind in REFINEMENTS if ("last", kind) in entry.arrays.maps]
    found = grid([("prediction", entry)], images, labels, refinements=kinds)
    style.save_beside(path, ".png", draw(found))


def _fitted(title: str, room: float) -> tuple[str, float]:
    """Return a title in lines of at most `room` inches, and the font size at which its longest word fits."""
    letter = 0.0085  # inches that a letter takes, per point of font size
    longest = max(len(word) for word in title.split())
    size = min(7.0, room / (letter * longest))
    letters = max(longest, int(room / (letter * size)))
    lines = [textwrap.fill(line, letters, break_long_words=False) for line in title.split("\n")]
    return "\n".join(lines), size


def _check_labels(entry: Entry, where: Sequence[int], truth: Sequence[np.ndarray]) -> None:
    """Hold labels against the record's counts, whose sums over clusters are the classes' pixels."""
    counts = entry.arrays.counts["last", "raw"]
    for index, label in zip(where, truth, strict=True):
        pixels = np.bincount(label[label != IGNORE], minlength=counts.shape[2])
        if not np.array_equal(pixels, counts[index].sum(axis=0)):
            raise DataError(f"The labels are not those that {entry.path} was scored with.", hint=_SAME_DATA)
