"""Panels: images, ground truth and predictions side by side, in the colours of the matched classes."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uss_bench.contracts import Images, Labels
from uss_bench.errors import DataError
from uss_bench.geometry import Items, scored_label
from uss_bench.paths import atomic_write
from uss_bench.record_files import Arrays, read_arrays, read_record
from uss_bench.records import UNMATCHED, Checkpoint, Refinement, RunRecord
from uss_bench.scoring import match, score_under

COLUMNS = 8
IGNORED_COLOUR = (24, 24, 24)
_TILE_INCHES = 1.45


def save_panel(path: Path, images: Images, labels: Labels | None, *, checkpoint: Checkpoint = "last") -> Path:
    """Draw the kept images of the record at `path` and write the picture beside it.

    The images are those whose maps the record keeps, the same for every method on a dataset.

    Returns:
        The path of the PNG.

    Raises:
        DataError: when it cannot be written; nothing half-written stays.
    """
    record = read_record(path)
    arrays = read_arrays(path, record)
    target = path.with_suffix(".png")
    draw_panel(record, arrays, images, labels, target, checkpoint=checkpoint)
    return target


def draw_panel(
    record: RunRecord,
    arrays: Arrays,
    images: Images,
    labels: Labels | None,
    target: Path,
    *,
    checkpoint: Checkpoint = "last",
) -> None:
    """Draw one record's panel and write it as a PNG: a column per image, a row per kind of map.

    Raises:
        DataError: when it cannot be written; nothing half-written stays.
    """
    items = Items.for_evaluation(images, record.protocol)
    position = {name: index for index, name in enumerate(images.ids)}
    chosen = [index for index, name in enumerate(arrays.map_ids) if name in position][:COLUMNS]
    pictures = [items.scored(position[arrays.map_ids[index]]) for index in chosen]
    rows: list[tuple[str, list[np.ndarray]]] = [("image", pictures)]
    if labels is not None:
        truth = np.array([*(row.colour for row in record.classes), IGNORED_COLOUR], dtype=np.uint8)
        maps = [
            scored_label(labels.label(position[arrays.map_ids[index]]), record.protocol) for index in chosen
        ]
        rows.append(("ground truth", [truth[one] for one in maps]))
    refinements: tuple[Refinement, ...] = ("raw", "crf")
    for refinement in refinements:
        predicted = arrays.maps.get((checkpoint, refinement))
        if predicted is not None:
            colours = cluster_colours(record, arrays, checkpoint, refinement)
            title = "prediction" if refinement == "raw" else "prediction + CRF"
            rows.append((title, [colours[predicted[index]] for index in chosen]))
    content = _compose(rows, _legend(record, arrays, checkpoint))
    try:
        atomic_write(target, content)
    except OSError as error:
        raise DataError(
            f"The picture {target} cannot be written: {error.strerror}.",
            hint="Free some space, and give the same command again: it draws what is missing.",
        ) from None


def cluster_colours(
    record: RunRecord, arrays: Arrays, checkpoint: Checkpoint, refinement: Refinement
) -> np.ndarray:
    """Return uint8 (K, 3): the colour of each cluster's class, greys for clusters without one."""
    counts = arrays.counts.get((checkpoint, refinement))
    if counts is None:
        return np.array(distinct_colours(record.clusters), dtype=np.uint8)
    matched = score_under(counts, record.protocol).class_of_cluster
    return colour_clusters(matched, [row.colour for row in record.classes])


def colour_clusters(class_of_cluster: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return uint8 (K, 3) from the class of each cluster; unmatched clusters get distinct greys."""
    result = np.empty((len(class_of_cluster), 3), dtype=np.uint8)
    unmatched = np.flatnonzero(class_of_cluster == UNMATCHED)
    greys = np.linspace(110, 235, max(len(unmatched), 1))
    result[unmatched] = greys[: len(unmatched), None].round().astype(np.uint8)
    for cluster in np.flatnonzero(class_of_cluster != UNMATCHED):
        result[cluster] = colours[class_of_cluster[cluster]]
    return result


def distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """Return colours that differ in hue and lightness, for clusters that have no class."""
    golden = 0.618033988749895
    colours = []
    for index in range(count):
        rgb = colorsys.hls_to_rgb((0.58 + index * golden) % 1.0, (0.55, 0.40, 0.70)[index % 3], 0.60)
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return colours


def _legend(
    record: RunRecord, arrays: Arrays, checkpoint: Checkpoint
) -> list[tuple[str, tuple[float, float, float]]]:
    def scaled(colour: Sequence[int]) -> tuple[float, float, float]:
        return colour[0] / 255, colour[1] / 255, colour[2] / 255

    counts = arrays.counts.get((checkpoint, "raw"))
    if counts is None:
        colours = distinct_colours(record.clusters)
        return [(f"cluster {index}", scaled(colour)) for index, colour in enumerate(colours)]
    entries = [(row.name, scaled(row.colour)) for row in record.classes]
    if _some_ignored(arrays, counts, checkpoint):
        entries.append(("ignored", scaled(IGNORED_COLOUR)))
    if (match(counts.sum(axis=0)) == UNMATCHED).any():
        entries.append(("unmatched cluster", scaled((172, 172, 172))))
    return entries


def _some_ignored(arrays: Arrays, counts: np.ndarray, checkpoint: Checkpoint) -> bool:
    """Whether any pixel of the kept images was counted nowhere."""
    position = {name: index for index, name in enumerate(arrays.image_ids)}
    maps = zip(arrays.map_ids, arrays.maps[checkpoint, "raw"], strict=True)
    return any(counts[position[name]].sum() < one.size for name, one in maps)


def _compose(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    legend: Sequence[tuple[str, tuple[float, float, float]]],
) -> bytes:
    """Return the panel as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from uss_bench.plots.style import plain_text

    columns = len(rows[0][1])
    legend_columns = max(2, min(columns + 1, len(legend)))
    legend_rows = -(-len(legend) // legend_columns)
    margin = 0.35
    width = columns * _TILE_INCHES + margin
    legend_height = 0.25 * legend_rows + 0.2
    tallest = max(tile.shape[0] / tile.shape[1] for _, tiles in rows for tile in tiles)
    height = len(rows) * _TILE_INCHES * min(max(tallest, 0.75), 1.5) + legend_height
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows),
        columns,
        left=margin / width,
        right=0.998,
        top=0.995,
        bottom=legend_height / height,
        wspace=0.03,
        hspace=0.03,
    )
    for row, (title, tiles) in enumerate(rows):
        for column, tile in enumerate(tiles):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(tile, interpolation="nearest" if row else "antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if column == 0:
                axes.set_ylabel(title, fontsize=9)
    buffer = io.BytesIO()
    with plain_text():
        figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor="#555", linewidth=0.4, label=name)
                for name, colour in legend
            ],
            loc="lower center",
            ncols=legend_columns,
            fontsize=8,
            frameon=False,
            handlelength=1.1,
            handleheight=1.1,
            columnspacing=1.2,
        )
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
