"""The linear probe: what it learns, what it says of itself, and where its result does not appear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ArrayImages, ArrayLabels, MemoryFeatures, planted
from PIL import Image
from running import PLUGINS
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from uss_bench.data.geometry import TransformedImages, corner_crop, resize_center_crop
from uss_bench.evaluation.scoring import score
from uss_bench.experiment.frozen_features.frozen_features import FrozenFeatures
from uss_bench.experiment.probe import (
    LABELS_USED,
    LinearProbe,
    ProbeConfiguration,
    targets,
    train_probe,
)
from uss_bench.results.collection import read_entries
from uss_bench.runtime.seeding import derive_seed

SIDE, CLASSES = 12, 4


def planted_problem(noise: float = 0.3) -> tuple[MemoryFeatures, TransformedImages, ArrayLabels, np.ndarray]:
    tokens, labels = planted([4, 3, 2, 1], channels=16, images=24, side=SIDE, noise=noise, seed=0)
    scales = torch.logspace(-3, 3, 16)[:, None, None]  # one learning rate must serve all of these
    images = ArrayImages.random(24, SIDE, SIDE)
    known = ArrayLabels([label.astype(np.int16) for label in labels])
    return (
        MemoryFeatures(tokens * scales + 5),
        TransformedImages(images, side=SIDE, filter="nearest"),
        known,
        labels,
    )


def test_a_probe_finds_planted_classes_at_any_scale_of_the_code():
    features, items, known, labels = planted_problem()
    model = train_probe(
        FrozenFeatures(), features, items, known, CLASSES, ProbeConfiguration(steps=200, batch_size=8)
    )
    with torch.no_grad():
        predicted = model(features.tokens).argmax(dim=1).numpy()
    assert (predicted == labels).mean() > 0.97


def test_the_first_step_goes_down_the_cross_entropy_of_labeled_pixels_alone():
    features, items, known, labels = planted_problem()
    known.arrays = [np.where(label == 3, -1, label).astype(np.int16) for label in known.arrays]
    settings = ProbeConfiguration(steps=1, batch_size=24)  # all items at once: Adam's first step is lr × sign
    trained = train_probe(FrozenFeatures(), features, items, known, CLASSES, settings)
    generator = torch.Generator().manual_seed(derive_seed(0, LABELS_USED))
    before = LinearProbe(16, CLASSES, generator).linear.weight.detach().numpy()[..., 0, 0].astype(np.float64)
    moved = trained.linear.weight.detach().numpy()[..., 0, 0] - before

    tokens = features.tokens.double().permute(0, 2, 3, 1).reshape(-1, 16).numpy()
    code = (tokens - tokens.mean(axis=0)) / tokens.std(axis=0)
    chosen = labels.ravel() < 3
    bias = trained.linear.bias.detach().numpy().astype(np.float64)  # moved by lr at most
    logits = code[chosen] @ before.T + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels.ravel()[chosen]]
    gradient = error.T @ code[chosen] / chosen.sum()
    steep = np.abs(gradient) > 5e-3
    assert steep.mean() > 0.7
    np.testing.assert_allclose(moved[steep], -settings.lr * np.sign(gradient[steep]), rtol=1e-3)


def test_it_ends_where_the_logistic_regression_of_scikit_learn_does():
    features, items, known, labels = planted_problem(noise=2.5)
    settings = ProbeConfiguration(steps=400, batch_size=24, lr=0.02)
    model = train_probe(FrozenFeatures(), features, items, known, CLASSES, settings)
    tokens = features.tokens.double().permute(0, 2, 3, 1).reshape(-1, 16).numpy()
    code = (tokens - tokens.mean(axis=0)) / tokens.std(axis=0)
    best = LogisticRegression(C=1e6, max_iter=1000).fit(code, labels.ravel())
    with torch.no_grad():
        logits = model(features.tokens).permute(0, 2, 3, 1).reshape(-1, CLASSES).double()
    loss = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels.ravel()).long()))
    least = log_loss(labels.ravel(), best.predict_proba(code))
    assert 0.05 < least < loss + 1e-6 < 1.005 * least + 1e-6, "classes overlap, and the optimum is reached"
    assert (logits.argmax(dim=1).numpy() == best.predict(code)).mean() > 0.99


def test_the_same_seed_gives_the_same_probe_and_another_seed_another():
    features, items, known, _ = planted_problem()

    def weight(seed: int) -> torch.Tensor:
        settings = ProbeConfiguration(steps=3, batch_size=4, seed=seed)
        return train_probe(FrozenFeatures(), features, items, known, CLASSES, settings).linear.weight

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_labels_come_under_the_geometry_of_the_items_nearest():
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 3, (21, 34)).astype(np.int16)
    items = TransformedImages(ArrayImages.random(1, 21, 34), side=8, filter="bicubic", five_crop=True)
    found = targets(items, ArrayLabels([label]), range(5))
    assert found.dtype == torch.int64
    for crop in range(5):
        np.testing.assert_array_equal(found[crop], resize_center_crop(corner_crop(label, crop), 8, "nearest"))


def test_outputs_of_a_probe_are_classes_and_are_not_matched():
    counts = np.array([[1, 8, 0], [7, 2, 1], [0, 3, 4]])
    found = score(counts, class_of_cluster=range(3))
    assert found.class_of_cluster.tolist() == [0, 1, 2]
    assert found.accuracy == (1 + 2 + 4) / counts.sum()
    np.testing.assert_allclose(found.iou, [1 / (9 + 8 - 1), 2 / (10 + 13 - 2), 4 / (7 + 5 - 4)])
    assert score(counts).accuracy > found.accuracy


# --- On the command line -------------------------------------------------------------------------


def test_a_record_and_frozen_features_are_probed_apart_from_all_records(command, tmp_path):
    out = ["--out", tmp_path, "--quiet", "--plugin", PLUGINS, "--workers", 1]
    small = ["--protocol", "stego320@2[eval_side=32]"]
    tiny = ["--dataset", "tiny", "--backbone", "patchstats"]
    said = command(
        "run", "--method", "dino", *tiny, "--set", "steps=5", "--training", "side=32", *small, *out
    )
    assert said.code == 0, said.err
    ((entry,), _) = read_entries([tmp_path])
    said = command("probe", entry.record.id[:8], "--steps", 60, "--batch-size", 4, *out)
    assert said.code == 0, said.err
    assert "Uses the labels of 'train'" in said.out
    result = json.loads(entry.path.with_suffix(".probe.json").read_text())
    assert result["labels_used"] == ["linear probe"]
    assert result["record"] == entry.record.id
    assert result["raw"]["accuracy"] > 80, "stripes and flat patches are linearly apart"

    said = command("probe", *tiny, "--training", "side=32", *small, "--steps", 60, "--batch-size", 4, *out)
    assert said.code == 0, said.err
    (features,) = tmp_path.rglob("patchstats-s0-*.probe.json")
    assert json.loads(features.read_text())["raw"]["accuracy"] > 80

    assert [one.path for one in read_entries([tmp_path])[0]] == [entry.path], "no board ever sees a probe"
    listed = command("show", "--out", tmp_path, "--plugin", PLUGINS)
    assert "probe" not in listed.out + listed.err
    assert command("show", entry.record.id[:8], "--out", tmp_path, "--plugin", PLUGINS).code == 0


def test_without_labels_there_is_nothing_to_learn_from(command, tmp_path):
    for index in range(2):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    said = command(
        "probe", "--dataset", "folder", "--root", tmp_path, "--backbone", "patchstats", "--out", tmp_path
    )
    assert said.code == 2
    assert "Labels of the training split are needed" in said.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Nothing is named that could be probed."),
        (["--backbone", "patchstats"], "Nothing is named that could be probed."),
        (["abc", "--protocol", "full@2"], "protocol, training images and limit are the record's"),
        (["--backbone", "patchstats", "--dataset", "toy3", "--lr", "0"], "is not in the range x>0"),
    ],
)
def test_wrong_usage(command, tmp_path: Path, arguments, expected):
    said = command("probe", *arguments, "--out", tmp_path)
    assert said.code == 2
    assert expected in said.err
