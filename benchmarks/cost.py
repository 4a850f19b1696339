"""How cost grows with patches, images and cells: measured, kept as CSV, and drawn.

::

    python benchmarks/cost.py [--repeats 3] [--threads N] [--out docs/images] [--small]

Patches: the pairwise losses of a step, forward and backward, as in `pair_losses.py`,
beside their literal forms. Images: extraction into the feature store by a ViT-S/8 with random weights,
224 pixels. Cells: SmooSeg under another seed each, every cell with a store of its own on one folder, as
processes have; the first extracts. With ``--out`` the figures are written there, as ``cost.csv`` and
``cost-<what>.png``; without, they are only printed.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pair_losses
import torch
from measuring import arguments, begin, both_passes, in_turns, machine, method_module, seconds
from reference_step import CPU, PATCH, Blank, RandomViT, TimedContext
from tabulate import tabulate

from uss_bench.data.geometry import TransformedImages
from uss_bench.features.store import FeatureStore
from uss_bench.files.atomic import atomic_write, cache_root
from uss_bench.plots.style import color, figure, legend_below, marker, save

LABELS = {"patches": "patches per image", "images": "images", "cells": "cells on one dataset"}
CELL_IMAGES, CELL_STEPS = 64, 50


@dataclass(frozen=True)
class Point:
    """One measured cost."""

    what: str
    """What it is a cost of: patches, images or cells."""
    series: str
    count: int
    seconds: float


def of_patches(sizes: tuple[int, ...], images: int, repeats: int) -> Iterator[Point]:
    for patches in sizes:
        for name, case in (("SmooSeg", "SmooSeg"), ("DS²DL", "DS²DL, frozen")):
            inputs = pair_losses.draw(case, images, patches, torch.float32)
            works = {
                f"{name}{', literal' * literal}": functools.partial(
                    both_passes, pair_losses.of_a_step(case, literal=literal), inputs
                )
                for literal in (False, True)
            }
            for series, taken in in_turns(works, repeats).items():
                yield Point("patches", series, patches, taken)


def of_images(folder: Path, backbone: RandomViT, counts: tuple[int, ...], side: int) -> Iterator[Point]:
    for count in counts:
        store = _store(folder / f"images-{count}", backbone)
        items = TransformedImages(Blank(count, side), side=side, filter="bilinear")
        yield Point("images", "extraction", count, seconds(lambda: store.open(items, ["tokens"])))  # noqa: B023


def of_cells(
    folder: Path, backbone: RandomViT, cells: int, images: int, side: int, steps: int
) -> Iterator[Point]:
    items = TransformedImages(Blank(images, side), side=side, filter="bilinear")
    method, total = method_module("smooseg").SmooSeg, 0.0

    def run(seed: int) -> None:
        features = _store(folder / "cells", backbone).open(items, ["tokens"])
        torch.manual_seed(seed)
        method(clusters=27, steps=steps).train(None, TimedContext(features))

    for cell in range(cells):
        total += seconds(lambda: run(cell))  # noqa: B023
        yield Point("cells", "extraction once, and training", cell + 1, total)


def _store(folder: Path, backbone: RandomViT) -> FeatureStore:
    return FeatureStore(folder, backbone, device=CPU, log=lambda message: None)


def draw(points: list[Point], what: str, path: Path) -> None:
    """Draw the seconds of one kind of cost; logarithmic where several orders of size are compared."""
    chosen = [point for point in points if point.what == what]
    names = list(dict.fromkeys(point.series for point in chosen))
    with figure(height=2.9 if len(names) > 1 else 2.4) as canvas:
        axes = canvas.subplots()
        for index, name in enumerate(names):
            line = [(point.count, point.seconds) for point in chosen if point.series == name]
            literal = name.endswith("literal")
            (n0, t0), (n1, t1) = line[-2:]
            exponent = math.log(t1 / t0) / math.log(n1 / n0)
            axes.plot(
                *zip(*line, strict=True),
                marker=marker(index),
                color=color(index // 2 if what == "patches" else index),
                linestyle="--" if literal else "-",
                label=f"{name}: $N^{{{exponent:.1f}}}$",
            )
        axes.set_xlabel(LABELS[what])
        axes.set_ylabel("seconds")
        axes.grid(True)
        if what == "patches":
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = sorted({point.count for point in chosen})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        if len(names) > 1:
            legend_below(canvas, *axes.get_legend_handles_labels())
        save(canvas, path)


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--out", type=Path, help="folder for cost.csv and the figures")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, draw from --out's cost.csv")
    options = parser.parse_args()
    if options.redraw:
        with (options.out / "cost.csv").open(encoding="utf-8", newline="") as file:
            rows = [
                Point(row["what"], row["series"], int(row["count"]), float(row["seconds"]))
                for row in csv.DictReader(file)
            ]
        for what in LABELS:
            draw(rows, what, options.out / f"cost-{what}.png")
        return
    sizes, batch, counts, side, blocks = (196, 400, 784, 1600), 32, (16, 32, 64, 128), 224, 12
    cells, images, steps = 6, CELL_IMAGES, CELL_STEPS
    if options.small:
        sizes, batch, counts, side, blocks = (16, 36, 64), 4, (2, 4), 32, 1
        cells, images, steps = 2, 8, 2
    begin(options)
    backbone = RandomViT(side, blocks)
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root()) as name:
        folder = Path(name)
        points = [
            *of_patches(sizes, batch, options.repeats),
            *of_images(folder, backbone, counts, side),
            *of_cells(folder, backbone, cells, images, side, steps),
        ]
    print(
        f"Cost against patches (B = {batch}), images (of {(side // PATCH) ** 2} patches), and cells (of "
        f"{images} images and {steps} steps of SmooSeg), {machine()}\n"
    )
    headers = [field.name for field in fields(Point)]
    print(tabulate([astuple(point) for point in points], headers=headers, floatfmt=".3f"))
    if options.out:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(headers)
        table.writerows([*astuple(point)[:3], f"{point.seconds:.4f}"] for point in points)
        options.out.mkdir(parents=True, exist_ok=True)
        atomic_write(options.out / "cost.csv", text.getvalue().encode())
        for what in LABELS:
            draw(points, what, options.out / f"cost-{what}.png")


if __name__ == "__main__":
    main()
