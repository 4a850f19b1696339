"""Tables of pages come from their scripts; the arithmetic of docs/scale.md agrees with other counts."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from uss_bench.plugins.params import training_geometry
from uss_bench.statistics.comparing import Comparison, Difference
from uss_bench.statistics.intervals import Interval

sys.path.append(str(Path(__file__).parents[2] / "docs"))
parts = importlib.import_module("parts")


@pytest.fixture(scope="module")
def scale():
    return importlib.import_module("scale")


@pytest.mark.parametrize("script", ["scale", "measured", "habits"])
def test_a_page_is_what_its_script_makes(script):
    found = importlib.import_module(script)
    pages = [page.read_text(encoding="utf-8") for page in getattr(found, "PAGES", None) or [found.PAGE]]
    for page in pages:
        assert parts.regenerated(page, found.PARTS) == page, f"run: python docs/{script}.py"
    for part in found.PARTS:
        assert any(f"<!-- part: {part} -->" in page for page in pages)


def test_the_label_gradient_of_cause_is_read_from_its_file_or_said_to_be_missing(tmp_path):
    habits = importlib.import_module("habits")
    assert habits.cause_leak(tmp_path) == "The third phase is not measured yet."
    runs = {"cut": [50.0, 52.0, 54.0], "leak": [53.0, 56.0, 60.0], "leak, wrong labels": [49.0, 52.0, 52.0]}
    arms = {arm: [{"accuracy": one, "miou": one / 2} for one in each] for arm, each in runs.items()}
    (tmp_path / "cause-leak-toy3.json").write_text(json.dumps({"dataset": "toy3", "third_phase": arms}))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in habits.cause_leak(tmp_path).splitlines()
    ]
    # Gains of 3, 4 and 6: mean 13 / 3, standard error sqrt(7 / 3 / 3), t of two degrees 4.3027.
    reach = 4.3027 * math.sqrt(7 / 9)
    gained = f"+4.3 ({13 / 3 - reach:+.1f} to {13 / 3 + reach:+.1f})"
    assert rows[2] == ["toy3", "cut", "3", "52.0", "26.0", "", ""]
    assert rows[3][:6] == ["toy3", "leak", "3", "56.3", "28.2", gained]


def test_the_study_has_585_cells(scale):
    methods = len(scale.STEPS) + len(scale.ELSEWHERE)
    assert methods == 13
    assert methods * len(scale.DATA) * len(scale.NETWORKS) * scale.SEEDS == 585
    assert scale.study().cells == 180


@pytest.mark.parametrize(
    ("name", "side", "gmacs"),
    [
        ("dino_vits8", 224, 22.3),
        ("dino_vits8", 320, 57.6),
        ("dino_vitb8", 224, 78.0),
        ("dino_vitb8", 320, 183.0),
        ("dinov2_vitb14", 224, 23.1),
    ],
)
def test_multiplications_agree_with_a_count_by_layers(scale, name, side, gmacs):
    network = next(one for one in scale.NETWORKS if one.name == name)
    tokens, dim = (side // network.patch) ** 2 + 1, network.dim
    layers = {
        "patches": (tokens - 1) * dim * 3 * network.patch**2,
        "queries, keys, values": network.blocks * tokens * dim * 3 * dim,
        "scores": network.blocks * tokens * tokens * dim,
        "weighted values": network.blocks * tokens * tokens * dim,
        "projection": network.blocks * tokens * dim * dim,
        "MLP": network.blocks * 2 * tokens * dim * 4 * dim,
    }
    assert network.macs(side) == sum(layers.values())
    assert network.macs(side) / 1e9 == pytest.approx(gmacs, rel=0.006)


def test_features_take_what_an_array_of_them_takes(scale):
    import numpy as np

    for network in scale.NETWORKS:
        for side in (network.train_side, network.eval_side):
            grid = side // network.patch
            assert network.item_bytes(side) == np.empty((network.dim, grid, grid), np.float16).nbytes
    one = scale.cell_size("smooseg", scale.DATA[0], scale.NETWORKS[0])
    assert one.extractions[0].bytes == 97_702 * 5 * 384 * 28 * 28 * 2


def test_images_steps_and_batches_are_those_of_datasets_and_presets(scale, registry):
    for data in scale.DATA:
        spec, _ = registry.dataset(data.name)
        splits = {split.name: split.images for split in spec.splits}
        assert (splits[spec.train_split], splits[spec.test_split]) == (data.train, data.test)
        for method in scale.STEPS:
            trained = training_geometry(
                registry.method(method)[0], {}, dataset=data.name, backbone="dino_vits8"
            )
            assert data.crops == (5 if trained.crops == "five" else 1)
        assert data.clusters == len(spec.classes)
    for method in ("smooseg", "ds2dl"):
        spec, _ = registry.method(method)
        published = {
            preset.when["dataset"]: preset.params["steps"]
            for preset in spec.presets
            if preset.when.get("backbone") in ("dino_vits8", "dino_vitb8")
        }
        assert scale.STEPS[method][0] == published


@pytest.mark.parametrize(
    ("verdict", "on", "off", "said"),
    [
        ("tied", [5.0, 6.0, 7.0], [1.0, 2.0, 4.9], "up"),
        ("tied", [5.0, 6.0, 7.0], [1.0, 2.0, 5.0], "no difference found"),
        ("tied", [1.0, 2.0, 4.9], [5.0, 6.0, 7.0], "**down**"),
        ("better", [5.0, 6.0, 7.0], [1.0, 2.0, 6.5], "up"),
        ("worse", [1.0, 2.0, 6.5], [5.0, 6.0, 7.0], "**down**"),
    ],
)
def test_a_pair_holds_where_all_seeds_agree_or_the_interval_excludes_0(verdict, on, off, said):
    measured = importlib.import_module("measured")
    tied = Difference(0.0, Interval(-1.0, 1.0), 1.0, "tied")
    miou = Difference(3.0, Interval(-1.0, 7.0), 0.5, verdict)
    compared = Comparison(accuracy=tied, miou=miou, per_class=[], images=9, seeds=(3, 3), notes=[])
    text = measured.verdict(compared, ([1.0, 2.0], [1.0, 2.0]), (on, off))
    assert text.startswith("mIoU " * (said != "no difference found") + said)
