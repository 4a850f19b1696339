"""New backbone keeps the contract of a backbone, and looks at the patches that it says it does."""

from __future__ import annotations

from pathlib import Path

import torch

from uss_bench.kit import check_backbone
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry

REGISTRY = Registry([Path(__file__).parent])


def test_every_check_of_a_backbone_holds() -> None:
    findings = check_backbone("new-backbone", REGISTRY)
    assert not [finding for finding in findings if finding.status == "failed"]


def test_a_feature_depends_on_its_patch_and_on_those_around_it_only() -> None:
    backbone = load_backbone(REGISTRY, "new-backbone")
    images = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[:, :, 16:24, 40:48] = 0  # patch (2, 5)
    before, after = (backbone(one, ["tokens"])["tokens"][0] for one in (images, changed))
    moved = (before != after).any(dim=0).nonzero()
    assert moved.min(dim=0).values.tolist() == [1, 4]
    assert moved.max(dim=0).values.tolist() == [3, 6]
