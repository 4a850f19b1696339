"""Files that change while a run reads them: no record and no feature stands under another content's name."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone
from PIL import Image
from running import Run

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import DataError
from uss_bench.experiment.runner import run_cell
from uss_bench.features.store import FeatureStore
from uss_bench.results.files import read_arrays
from uss_bench.training.clock import Clock

RNG = np.random.default_rng(0)
CLASSES = """
name = "mine"
[[classes]]
name = "a"
color = [1, 2, 3]
[[classes]]
name = "b"
color = [4, 5, 6]
"""


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for number in range(4):
            size = (40, 48)
            put(
                tmp_path / "d" / "images" / split / f"{number}.png",
                RNG.integers(0, 256, (*size, 3), np.uint8),
            )
            put(tmp_path / "d" / "labels" / split / f"{number}.png", RNG.integers(0, 2, size, np.uint8))
    (tmp_path / "d" / "classes.toml").write_text(CLASSES)
    return tmp_path / "d"


def other(path: Path) -> np.ndarray:
    """Return another picture of the size and kind of a file's."""
    array = np.asarray(Image.open(path))
    return 1 - array if "labels" in path.parts else ~array


def swap(path: Path, *, keep_times: bool) -> None:
    before = path.stat()
    Image.fromarray(other(path)).save(path)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """Do something when a run enters a phase for the first time."""

    def do(phase: str, action: Callable[[], None]) -> None:
        enter, pending = Clock.phase, [action]

        def entered(clock: Clock, name: str) -> Any:
            if name == phase and pending:
                pending.pop()()
            return enter(clock, name)

        monkeypatch.setattr(Clock, "phase", entered)

    return do


@pytest.mark.parametrize(
    ("phase", "keep_times"), [("train", False), ("extract", True), ("evaluate", False), ("evaluate", True)]
)
@pytest.mark.parametrize("what", ["images/train", "images/test", "labels/test"])
def test_a_swapped_file_ends_the_run_or_was_read_before(run, root, during, tmp_path, what, phase, keep_times):
    path = root / what / "2.png"
    original = shutil.copy2(path, tmp_path / "original.png")
    options: Any = {
        "backbone": "patchstats",
        "data": {"root": str(root), "classes": str(root / "classes.toml")},
        "params": {"clusters": 2, "steps": 4, "batch_size": 2},
        "protocol": "stego320@2[eval_side=32]",
        "training": {"side": 32},
    }
    undisturbed = Run(run.registry, tmp_path / "undisturbed")("dino", "folder", **options)
    during(phase, lambda: swap(path, keep_times=keep_times))
    found, reason = [], ""
    try:
        found.append(run("dino", "folder", **options))
    except DataError as error:
        reason = error.what
    assert bool(found) or f"{path} changed while it was in use" in reason
    assert len(list(run.results.rglob("*.npz"))) == len(found)
    shutil.copy2(original, path)
    found.append(run("dino", "folder", **options))
    wanted = read_arrays(undisturbed.path, undisturbed.record)
    for outcome in found:
        assert outcome.record.id == undisturbed.record.id
        arrays = read_arrays(outcome.path, outcome.record)
        for key, counts in wanted.counts.items():
            np.testing.assert_array_equal(arrays.counts[key], counts)


class Changing(FakeBackbone):
    """A backbone during whose third call an image changes."""

    def __init__(self, images: ArrayImages) -> None:
        super().__init__()
        self.images = images

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if len(self.calls) == 3:
            self.images.arrays[290] = ~self.images.arrays[290]
        return super().__call__(*arguments, **options)


def test_features_of_images_that_changed_are_not_kept_whoever_reads_them(tmp_path):
    images = ArrayImages.random(300, 9, 11)
    items = TransformedImages(images, side=8, filter="nearest")
    options: Any = {"device": torch.device("cpu"), "log": lambda message: None}
    store = FeatureStore(tmp_path, Changing(images), **options)
    with pytest.raises(DataError, match="Images changed while features were made of them"):
        store.open(items, ["tokens"])
    images.arrays[290] = ~images.arrays[290]
    kept = FeatureStore(tmp_path, FakeBackbone(), **options).open(items, ["tokens"])
    fresh = FeatureStore(tmp_path / "fresh", FakeBackbone(), **options).open(items, ["tokens"])
    for index in (0, 127, 128, 290, 299):
        torch.testing.assert_close(kept[index], fresh[index], rtol=0, atol=0)


@pytest.mark.parametrize("side", ["train_images", "test_images", "test_labels"])
def test_a_record_is_not_written_when_a_plugins_fingerprint_changed(run, tmp_path, side):
    setup = run.setup("random", backbone="patchstats")

    class Moving:
        def __getattr__(self, name: str) -> Any:
            return getattr(getattr(setup, side), name)

        def __len__(self) -> int:
            return len(getattr(setup, side))

        def fingerprint(self) -> str:
            return "another"

    changed = dataclasses.replace(setup, **{side: Moving()})
    with (
        setup.open_crf(workers=1) as pool,
        pytest.raises(DataError, match="Images or labels of 'tiny' changed"),
    ):
        run_cell(changed, 0, store=run.store(setup), pool=pool, out=run.results, crf_engine="lattice")
    assert not list(run.results.rglob("*.npz"))
