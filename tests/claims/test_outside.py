"""The commands for predictions from outside, as the ledger's page prints them, on generated label maps.

The maps are the truth under other numbers: what a rule of matching can undo, it must undo to the last pixel.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import coco_files
import numpy as np
import pytest
from PIL import Image

from uss_bench.claims import built_in_folder, load_claims
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record

PAGE = (built_in_folder() / "README.md").read_text(encoding="utf-8")
EVALS = dict(re.findall(r"^\| ([\w&]+) \| [^|]+ \| `(uss-bench eval [^`]+)` \|$", PAGE, re.M))
SHOWS = re.findall(r"^ {4}(uss-bench show [^\n]+)$", PAGE, re.M)
CLASSES = 27
SIDE = 48, 64
Renumber = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    coco = tmp_path_factory.mktemp("coco")
    for subset in ("train2017", "val2017"):
        coco_files.put_maps(coco_files.put_images(coco, subset), subset)
    coco_files.put_lists(coco)
    cities, rng = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    for split, city in (("train", "aachen"), ("val", "munster"), ("val", "lindau")):
        stem = f"{split}/{city}/{city}_000000_000019"
        # Values 7 to 33 of the files are the 27 classes; 0 is none.
        labels = rng.choice([0, *range(7, 34)], (SIDE[0] // 4, SIDE[1] // 4)).repeat(4, 0).repeat(4, 1)
        for path, array in (
            (cities / "leftImg8bit" / f"{stem}_leftImg8bit.png", rng.integers(0, 256, (*SIDE, 3))),
            (cities / "gtFine" / f"{stem}_gtFine_labelIds.png", labels),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    return {"cocostuff27": coco, "cityscapes27": cities}


def predict(folder: Path, dataset: str, root: Path, split: str, renumber: Renumber) -> Path:
    """Write label maps of a split: the truth, renumbered; pixels without a label are in cluster 0."""
    spec, plugin = Registry().dataset(dataset)
    data = plugin.load()(spec, root=root, partial=True)
    labels = data.labels({"train": data.train_split, "test": data.test_split}[split])
    rng = np.random.default_rng(7)
    for index, name in enumerate(labels.ids):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        found = renumber(labels.label(index).clip(min=0).astype(np.int64), rng)
        Image.fromarray(found.astype(np.uint16)).save(path)
    return folder


def split_up(clusters: int) -> Renumber:
    """Every pixel of a class into one of several clusters, the same for all images."""

    def renumber(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pieces = (clusters - label - 1) // CLASSES + 1
        return label + CLASSES * rng.integers(0, pieces)

    return renumber


def exchanged(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (label * 5 + 3) % CLASSES


def among_thirty(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (label * 7 + 3) % 30


def anew(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(CLASSES)[label]


MAPS: dict[str, Renumber] = {
    "U2Seg": split_up(300),
    "CUPS": exchanged,
    "Drive&Segment": among_thirty,
    "DiffSeg": anew,
    "DiffCut": anew,
}


@pytest.fixture
def scored(command, roots, tmp_path):
    """Run the command that the page prints for a method on maps of its kind; return the record's path."""

    def scored(method: str) -> Path:
        words = shlex.split(EVALS[method])[1:]
        dataset = words[words.index("--dataset") + 1]
        places = {"ROOT": roots[dataset]}
        for word, split in (("TEST", "test"), ("TRAIN", "train")):
            if word in words:
                places[word] = predict(tmp_path / split, dataset, roots[dataset], split, MAPS[method])
        words = [places.get(word, word) for word in words]
        said = command(*words, "--data", "partial=true", "--out", tmp_path / "results", "--quiet")
        assert said.code == 0, said.err
        (path,) = (tmp_path / "results").glob("*/*.json")
        return path

    return scored


def test_every_method_from_outside_has_a_command_under_the_name_of_its_claims():
    assert EVALS.keys() == MAPS.keys()
    names = {words[words.index("--name") + 1] for words in map(shlex.split, EVALS.values())}
    assert names <= {claim.method for claim in load_claims()}
    assert len(SHOWS) == 2


@pytest.mark.parametrize("method", ["U2Seg", "CUPS", "Drive&Segment"])
def test_what_the_matching_undoes_is_right_to_the_last_pixel(method, scored):
    record = read_record(scored(method))
    assert record.last.raw.accuracy == record.last.raw.miou == 100
    assert record.last.crf is None
    assert record.clusters > 27 or method == "CUPS"
    assert record.external is not None
    wanted = {"U2Seg": [], "CUPS": ["stereo-or-flow"], "Drive&Segment": ["lidar"]}
    assert record.external.ingredients == wanted[method]


def test_u2segs_clusters_are_named_by_the_training_images_alone(command, roots, tmp_path, scored):
    """With the training maps of other numbers, no cluster of the test maps has its class's name."""
    path = scored("U2Seg")
    assert {"training labels", "training predictions"} <= read_record(path).cell.assets.keys()
    wrong = predict(tmp_path / "wrong", "cocostuff27", roots["cocostuff27"], "train", exchanged)
    words = [
        {"TEST": tmp_path / "test", "TRAIN": wrong, "ROOT": roots["cocostuff27"]}.get(word, word)
        for word in shlex.split(EVALS["U2Seg"])[1:]
    ]
    said = command(*words, "--data", "partial=true", "--out", tmp_path / "again", "--quiet")
    assert said.code == 0, said.err
    (other,) = (tmp_path / "again").glob("*/*.json")
    assert read_record(other).last.raw.accuracy < 10
    without = [word for word in words if word not in ("--train-predictions", wrong)]
    assert "--train-predictions DIR" in command(*without, "--data", "partial=true").err
    words[words.index("--protocol") + 1] = "stego320@2[crf=none]"
    assert "needs no --train-predictions" in command(*words, "--data", "partial=true").err


@pytest.mark.parametrize("method", ["CUPS", "Drive&Segment"])
def test_the_same_predictions_are_scored_under_fewer_classes(method, command, scored):
    path = scored(method)
    for line, classes in zip(SHOWS, (19, 7), strict=True):
        said = command(*shlex.split(line)[1:], "--records", path.parents[1], "--format", "json")
        assert said.code == 0, said.err
        for row in json.loads(said.out):
            assert row["classes"] == classes
            # One cluster for each of 7 classes cannot hold what 19 of ours are.
            right = classes == 19 or row["extra_clusters"] == "merge"
            assert (row["accuracy"] == row["miou"] == 100) == right, row


@pytest.mark.parametrize("method", ["DiffSeg", "DiffCut"])
def test_numbers_that_change_from_image_to_image_are_undone_by_the_oracle_alone(method, command, scored):
    path = scored(method)
    record = read_record(path)
    assert record.last.raw.accuracy < 90
    assert record.protocol.eval_side == 512
    assert record.external.ingredients == ["text"]
    said = command("errors", path)
    assert said.code == 0, said.err
    assert re.search(r"per-image oracle +100\.0 +100\.0", said.out), said.out
