"""Every command that writes files, small: what it is called with, and what must lie there before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import CELL, PLUGINS, Place
from PIL import Image

from uss_bench.results.files import record_files

GOLDEN_PLAN = """
dataset = "tiny"
backbone = "patchstats"
protocol = "stego320@2[eval_side=64]"
training = { side = 64 }
limit = 4
seeds = [0]
threads = 1
tolerance = { pixels = 0.01, points = 0.5 }
runs = [{ method = "constant" }, { method = "random" }, { method = "dino", params = { steps = 2 } }]
"""


@dataclass(frozen=True)
class Source:
    """What the commands read, on a disk without faults: the records of the cell, photos and label maps."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "out"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def record(self) -> Path:
        (path,) = record_files(self.results)
        return path

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    def make(self) -> Source:
        """Write photos and maps; the records are there."""
        rng = np.random.default_rng(0)
        self.photos.mkdir()
        self.maps.mkdir()
        for number in range(3):
            photo = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(photo).save(self.photos / f"{number}.png")
        for number in range(100, 104):
            found = rng.integers(0, 2, (48, 60), dtype=np.uint8)
            Image.fromarray(found).save(self.maps / f"scene-{number}.png")
        return self


@dataclass(frozen=True)
class Writer:
    """A command that writes below a place.

    Args:
        arguments: of the command.
        prepare: puts in place what the command finds beside what it writes.
        repeats: whether it may be given again once it is done; ``new`` refuses a folder that is there.
    """

    arguments: Callable[[Source, Place], Sequence[object]]
    prepare: Callable[[Source, Place], object] = lambda source, place: None
    repeats: bool = True


def _copy_records(source: Source, place: Place) -> None:
    shutil.copytree(source.results, place.out)


def _write_plan(source: Source, place: Place) -> None:
    place.out.mkdir(parents=True)
    (place.out / "plan.toml").write_text(GOLDEN_PLAN)


PLUGIN = ("--plugin", PLUGINS)
WRITERS: dict[str, Writer] = {
    "run": Writer(lambda source, place: [*CELL, "--snapshot-every", "0", "--out", place.out]),
    "eval": Writer(
        lambda source, place: [
            *("eval", source.maps, "--dataset", "tiny", "--clusters", 2, "--out", place.out, *PLUGIN),
            *("--protocol", "stego320@2[eval_side=64]", "--training", "side=64"),
        ]
    ),
    "predict": Writer(
        lambda source, place: [
            *("predict", "--record", source.record, "--images", source.photos, "--out", place.out),
            *("--workers", 1, *PLUGIN),
        ]
    ),
    "probe": Writer(
        lambda source, place: [*("probe", record_files(place.out)[0], "--steps", 5, "--workers", 1, *PLUGIN)],
        _copy_records,
    ),
    "board build": Writer(
        lambda source, place: ["board", "build", "--records", source.results, "--out", place.out, *PLUGIN]
    ),
    "report": Writer(
        lambda source, place: ["report", source.record, "--out", place.out / "page.md", *PLUGIN]
    ),
    "plot curves": Writer(
        lambda source, place: [
            *("plot", "curves", "--records", source.results, "--out", place.out / "curves.pdf", *PLUGIN)
        ]
    ),
    "regress golden --update": Writer(
        lambda source, place: ["regress", "golden", "--golden", place.out, "--update", *PLUGIN], _write_plan
    ),
    "merge": Writer(lambda source, place: ["merge", source.results, "--out", place.out, *PLUGIN]),
    "new": Writer(lambda source, place: ["new", "dataset", "something", "--out", place.out], repeats=False),
}
