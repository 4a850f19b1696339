"""No label reaches a method: with labels absent, permuted or deleted it learns the very same bytes."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from uss_bench.kit.reach import reachable
from uss_bench.results.collection import Entry

METHODS: dict[str, dict[str, Any]] = {
    "dino": {"steps": 10, "checkpoint_every": 5},
    "smooseg": {"steps": 10, "checkpoint_every": 5},
    "ds2dl": {"steps": 6, "checkpoint_every": 3},
    "stego": {"steps": 6, "checkpoint_every": 3},
    "primaps": {"steps_init": 2, "steps": 2, "batch_size": 2, "checkpoint_every": 1},
    "eagle": {"steps": 4, "switch_after": 1, "batch_size": 2, "dim": 8, "samples": 3},
    "ppap": {"steps": 4, "batch_size": 2},
    "cause": {"head": "mlp", "steps_codebook": 2, "steps": 2, "steps_probe": 4, "codes": 8, "projection": 8},
    "hp": {"steps": 4, "batch_size": 2, "dim": 8, "pool_size": 4, "renew_every": 2, "warmup": 1},
    "equss": {"steps": 6, "checkpoint_every": 3, "dim": 32, "parts": 4, "entries": 8},
    "reib": {"steps": 6, "checkpoint_every": 3, "hidden": 8},
    "pca": {"steps": 6, "dim": 16, "checkpoint_every": 3},
    "randproj": {"steps": 6, "checkpoint_every": 3},
    "debias": {"steps": 6, "checkpoint_every": 3},
    "ncut": {"steps": 6, "checkpoint_every": 3},
    "iic": {"width": 2, "over_clusters": 4, "epochs": 1, "half_window": 2},
    "iic_proj": {"dim": 8, "over_clusters": 4, "epochs": 2},
    "picie": {"network": "test_resnet", "epochs": 1, "dim": 8},
    "mdc": {"network": "test_resnet", "epochs": 1, "dim": 8},
    "picie_h": {"network": "test_resnet", "epochs": 1, "dim": 8, "auxiliary_clusters": 5},
    "picie_proj": {"epochs": 1, "dim": 8},
    "mdc_proj": {"epochs": 1, "dim": 8},
    "picie-like": {"epochs": 1},
    "attention-gradient": {"steps": 5},
    "eagle-like": {"steps": 3},
    "hp-like": {"steps": 3},
    "ppap-like": {"steps": 3},
    "cause-like": {"steps": 2},
}
LIKE = ("eagle-like", "hp-like", "ppap-like", "cause-like")
FROZEN = ("eagle", "hp", "ppap", "attention-gradient", *LIKE)

OWN_NETWORK = ("picie", "mdc", "picie_h", "picie-like")

CLASSES = """
name = "stripes"
ignore_values = [255]
classes = [{ name = "smooth", color = [230, 159, 0] }, { name = "striped", color = [0, 114, 178] }]
"""


@pytest.fixture(params=METHODS)
def train(request, run, random_vit):
    """Runs one of the methods with three clusters, on whatever dataset and labels."""
    frozen = random_vit if request.param in FROZEN else {}
    options = frozen or ({} if request.param in OWN_NETWORK else {"backbone": "patchstats"})
    return functools.partial(run, request.param, params={"clusters": 3, **METHODS[request.param]}, **options)


@pytest.fixture
def folder(run, tmp_path) -> Path:
    """The scenes of `tiny` as files: a folder with ``images``, ``labels`` and a classes file."""
    tiny = run.setup("constant").dataset
    root = tmp_path / "stripes"
    for split in tiny.splits:
        images, labels = tiny.images(split), tiny.labels(split)
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index, name in enumerate(images.ids):
            save(images.image(index), root / "images" / split / f"{name}.png")
            save(labels.label(index) % 256, root / "labels" / split / f"{name}.png")
    (root / "classes.toml").write_text(CLASSES)
    return root


def save(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array.astype(np.uint8)).save(path)


def on(root: Path, *, labeled: bool = True) -> dict[str, Any]:
    classes = {"classes": str(root / "classes.toml")} if labeled else {}
    return {"dataset": "folder", "data": {"root": str(root), **classes}}


def assert_learned_the_same(first: Entry, second: Entry) -> None:
    assert first.record.cell.dataset.fingerprint != second.record.cell.dataset.fingerprint
    states = [outcome.path.with_suffix(".safetensors").read_bytes() for outcome in (first, second)]
    assert states[0] == states[1]
    assert first.record.curves == second.record.curves


# --- What is learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{"labeled": False}, {"swapped": True}], ids=["absent", "permuted"])
def test_training_does_not_notice_that_labels_are(labels, train):
    assert_learned_the_same(train(), train(data=labels))


def test_training_does_not_notice_that_label_files_are_deleted(train, folder):
    labeled = train(**on(folder))
    assert labeled.record.last is not None
    shutil.rmtree(folder / "labels")
    unlabeled = train(**on(folder, labeled=False))
    assert unlabeled.record.last is None
    assert_learned_the_same(labeled, unlabeled)


def test_training_does_not_notice_that_label_files_are_overwritten(run, folder):
    runs = []
    for value in (0, 1):
        for path in (folder / "labels").rglob("*.png"):
            save(np.full((48, 60), value), path)
        runs.append(run("dino", **on(folder), params=METHODS["dino"], backbone="patchstats"))
    assert_learned_the_same(*runs)


def test_labels_choose_a_checkpoint_only_after_the_last_state_was_taken(run):
    outcome = run("dino", params=METHODS["dino"])
    assert [candidate.step for candidate in outcome.record.candidates] == [5, 10, None]
    unlabeled = run("dino", params={"clusters": 2, **METHODS["dino"]}, data={"labeled": False})
    assert outcome.record.state_sha256 == unlabeled.record.state_sha256


# --- What can be reached -------------------------------------------------------------------------


def watched(method: type, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that will hold the very objects that the harness hands to the method's `train`."""
    given: list[object] = []
    original: Any = method.train  # type: ignore[attr-defined]

    def spy(self: object, data: object, ctx: object) -> None:
        given.extend([data, ctx])
        original(self, data, ctx)

    monkeypatch.setattr(method, "train", spy)
    return given


@pytest.mark.parametrize("limit", [None, 2], ids=["all images", "limited"])
@pytest.mark.parametrize("dataset", ["tiny", "folder"])
def test_nothing_that_a_method_is_given_leads_to_labels(run, folder, monkeypatch, dataset, limit):
    where = {**(on(folder) if dataset == "folder" else {}), "backbone": "patchstats", "limit": limit}
    given = watched(run.setup("dino", **where).plugin.load(), monkeypatch)
    assert run("dino", params=METHODS["dino"], **where).record.last is not None

    for thing in reachable(*given):
        assert not hasattr(thing, "label"), f"{thing!r} gives labels"
        assert not hasattr(thing, "labels"), f"{thing!r} gives labels"
        assert not isinstance(thing, np.ndarray) or thing.ndim != 2, "a label map has two axes"
        if isinstance(thing, str | Path) and Path(thing).is_absolute():
            assert not Path(thing).is_relative_to(folder / "labels"), f"{thing} is a label file"
            assert not (folder / "labels").is_relative_to(thing), f"{thing} holds the label files"


def test_the_walk_would_find_a_dataset_that_is_hidden_in_a_closure(run):
    dataset = run.setup("dino").dataset
    hidden = [{"image": functools.partial(lambda index: dataset.labels("train").label(index))}]
    assert any(thing is dataset for thing in reachable(hidden))
