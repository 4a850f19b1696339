"""What a record of features says of cost and shows of components, and plans of what to measure."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from uss_bench.experiment.backbone_cost import backbone_cost
from uss_bench.experiment.feature_picture import feature_picture
from uss_bench.experiment.feature_plan import FeaturePlan
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.specs import decode_toml
from uss_bench.results.feature_record import picture_path

PLAN = """
[defaults]
protocol = "stego320@2[eval_side=32]"
training = { side = 32 }
limit = 8
set = { kmeans_steps = 2, measures = ["kmeans"] }

[[features]]
backbone = ["patchstats", "dense_sift"]
dataset = "toy3"
seeds = 2
note = "a note"

[[features]]
backbone = "tinyvit"
dataset = "toy3"
blocks = [1]
set = { kmeans_steps = 1 }
"""


def test_operations_are_those_of_the_layers_and_parameters_those_of_the_network(registry, tmp_path):
    image = np.zeros((64, 48, 3), dtype=np.uint8)

    def cost(name: str, facet: str = "tokens"):
        backbone = load_backbone(registry, name)
        return backbone_cost(FeatureStore(tmp_path, backbone, device=torch.device("cpu")), image, facet)

    found = cost("random_cnn")
    inside, pixels, layers = (3, 64, 128, 256), (64 * 48, 32 * 24, 16 * 12, 8 * 6), (64, 128, 256, 256)
    kernels = [9 * a * b for a, b in zip(inside, layers, strict=True)]
    assert found.parameters == sum(kernels)
    assert found.flops == sum(2 * kernel * size for kernel, size in zip(kernels, pixels, strict=True))
    assert (found.size, found.seconds > 0) == ((64, 48), True)

    dim, tokens, blocks = 128, 8 * 6 + 1, 4
    block = tokens * 12 * dim**2 + 2 * tokens**2 * dim  # of qkv, projection and MLP; of the attention
    whole = 2 * (8 * 6 * 3 * 64 * dim + blocks * block)
    vit = cost("tinyvit")
    assert vit.flops == whole
    assert cost("tinyvit", "tokens@1").flops == whole - 2 * 3 * block
    assert vit.parameters == sum(p.numel() for p in load_backbone(registry, "tinyvit")._model.parameters())
    assert cost("patchstats").parameters == cost("dense_sift").parameters == 0


def test_colors_are_the_components_of_all_patches_and_do_not_change_with_the_basis():
    maps = [torch.randn(6, 20, 25, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    scale = torch.tensor([9.0, 4.0, 2.0, 0.1, 0.1, 0.1]).view(-1, 1, 1)
    maps = [one * scale for one in maps]
    picture = np.asarray(Image.open(io.BytesIO(feature_picture(maps))))
    assert picture.shape == (20, 50, 3)
    assert np.array_equal(picture, np.asarray(Image.open(io.BytesIO(feature_picture(maps)))))
    for channel in range(3):  # the axes are nearly the components, up to where they begin and end
        axis = torch.cat([one[channel] for one in maps], dim=1).flatten().numpy()
        assert np.corrcoef(axis, picture[..., channel].flatten())[0, 1] > 0.95
    shifted = [one + 7 for one in maps]
    again = np.asarray(Image.open(io.BytesIO(feature_picture(shifted))))
    assert np.abs(again.astype(int) - picture).max() <= 1


def test_a_plan_is_measured_once_and_only_generated_images_are_shown(command, tmp_path):
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN, encoding="utf-8")
    printed = command("features", "--plan", plan, "--out", out, "--format", "csv")
    assert printed.code == 0, printed.err
    paths = sorted((out / "toy3").glob("*.features.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    cells = [(one["cell"]["backbone"]["name"], one["cell"]["facet"], one["cell"]["seed"]) for one in records]
    assert cells == [
        *[("dense_sift", "tokens", seed) for seed in (0, 1)],
        *[("patchstats", "tokens", seed) for seed in (0, 1)],
        ("tinyvit", "tokens@1", 0),
    ]
    assert [one["cell"]["settings"]["kmeans_steps"] for one in records] == [2, 2, 2, 2, 1]
    assert [one["notes"] for one in records] == [["a note"]] * 4 + [[]]
    shown = [picture_path(path).is_file() for path in paths]
    assert shown == [True, False, True, False, True], "one picture per backbone, of the first seed"
    with Image.open(picture_path(paths[0])) as picture:
        assert picture.size == (4 * 4, 4)

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert command("features", "--plan", plan, "--out", out).code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "text", "code"),
    [
        (
            ('dataset = "toy3"\nseeds = 2', "seeds = 2"),
            r"\$\.features\[0\]`: It does not say which",
            2,
        ),
        (("kmeans_steps = 1", "kmeans_step = 1"), r"\$\.features\[1\]`: set: .*kmeans_step", 2),
        (("seeds = 2", 'weights = "w.pt"'), "Weights belong to one backbone", 2),
        (("limit = 8", "limits = 8"), "unknown field `limits`", 1),
    ],
)
def test_plans_that_are_refused(command, tmp_path, change, text, code):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace(*change), encoding="utf-8")
    printed = command("features", "--plan", plan, "--out", tmp_path)
    assert printed.code == code
    assert re.search(text, printed.err), printed.err


def test_the_committed_plan_can_be_read(registry):
    path = Path(__file__).parents[2] / "leaderboards" / "records" / "features.toml"
    plan = decode_toml(path, FeaturePlan)
    asked = [table.over(plan.defaults).asked() for table in plan.features]
    assert {cell.dataset for cell, _ in asked} == {"toy3", "toy27", "folder", "cocostuff27"}
    assert all(settings.kmeans_steps == 100 and settings.clusters for _, settings in asked)
