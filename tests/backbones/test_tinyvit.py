"""The ViT in the box: what ships, and the views it was trained on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from uss_bench.backbones.tinyvit.tinyvit import WEIGHTS, build
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "tinyvit"


def script(name: str):
    """Import a file of benchmarks/tinyvit, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARK / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


views = script("views")


def test_the_weights_fit_into_the_wheel_and_hold_what_the_network_has():
    assert WEIGHTS.stat().st_size <= 3_000_000
    shipped, network = load_file(WEIGHTS), build().state_dict()
    assert {key: value.shape for key, value in shipped.items()} == {
        key: value.shape for key, value in network.items()
    }
    assert all(value.isfinite().all() for value in shipped.values())


def test_tokens_and_facets_come_at_any_size_that_the_patch_divides():
    backbone = load_backbone(Registry(), "tinyvit")
    assert (backbone.name, backbone.patch) == ("tinyvit", 8)
    found = backbone(torch.rand(2, 3, 48, 80), ["tokens", "keys@4", "cls", "cls_attention"])
    shapes = {facet: tuple(value.shape) for facet, value in found.items()}
    assert shapes == {
        "tokens": (2, 128, 6, 10),
        "keys@4": (2, 128, 6, 10),
        "cls": (2, 128),
        "cls_attention": (2, 4, 6, 10),
    }


def test_other_weights_of_the_same_shape_need_another_name(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(build().state_dict(), path)
    other = load_backbone(Registry(), "tinyvit", weights=path, alias="tinyvit-random")
    assert other.name == "tinyvit-random"
    assert other.sha256 != load_backbone(Registry(), "tinyvit").sha256
    with pytest.raises((DataError, UsageError), match=r"backbone-name|sha256"):
        load_backbone(Registry(), "tinyvit", weights=path)


def test_views_stay_within_the_scene_and_overlap():
    draws = torch.Generator().manual_seed(0)
    first, second = views.draw_pair(500, 192, 256, draws)
    for view in (first, second):
        x, y, half, orientation = view.T
        assert ((x - half >= -1e-3) & (x + half <= 256 + 1e-3)).all()
        assert ((y - half >= -1e-3) & (y + half <= 192 + 1e-3)).all()
        assert set(orientation.tolist()) == {-1.0, 1.0}
    seen = (views.correspondence(first, second, 8).abs() <= 1).all(dim=-1).flatten(1).float().mean(dim=1)
    assert (seen > 0).all()
    assert 0.4 < seen.mean() < 0.9


def test_a_token_corresponds_to_the_place_of_the_scene_that_both_views_show():
    """On a scene whose color is its position, what the other view shows there is the same color."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 192), torch.linspace(0, 1, 256), indexing="ij")
    scene = torch.stack([rows, columns, rows * 0]).expand(16, -1, -1, -1)
    first, second = views.draw_pair(16, 192, 256, torch.Generator().manual_seed(1))
    at = views.correspondence(first, second, 8)
    own = views.cut(scene, first, 8)
    there = torch.nn.functional.grid_sample(
        views.cut(scene, second, 64), at, mode="bilinear", padding_mode="border", align_corners=False
    )
    seen = (at.abs() <= 0.95).all(dim=-1)[:, None].expand_as(own)
    torch.testing.assert_close(own[seen], there[seen], atol=0.01, rtol=0)


def test_balanced_codes_follow_the_power_law(monkeypatch):
    monkeypatch.setitem(sys.modules, "views", views)
    pretrain = script("pretrain")
    cosines = torch.rand(4000, pretrain.PROTOTYPES, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = pretrain.balanced(cosines)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(len(codes)))
    shares = codes.mean(dim=0)
    wanted = torch.arange(1, pretrain.PROTOTYPES + 1) ** -pretrain.EXPONENT
    assert (shares - wanted / wanted.sum()).abs().max() < 0.01
