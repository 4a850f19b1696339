"""The plan of all published runs: it follows the pages, and every cell of it resolves on genuine formats."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec
import pytest
import timm
import torch
from test_published_runs import ROOT, cards, checkpoints, depths, roots

from uss_bench.experiment.plan_file import read_plan
from uss_bench.experiment.resolving import Loaded, resolve
from uss_bench.plugins.registry import Registry

sys.path.append(str(ROOT / "docs"))
published = importlib.import_module("published")

__all__ = ["cards", "checkpoints", "depths", "roots"]  # fixtures


def test_the_plan_is_that_of_the_pages():
    assert not list(published.problems())
    assert len(published.commands()) == published.PLAN.read_text().count("[[runs]]") > 50


@pytest.fixture(scope="module")
def weights(checkpoints, tmp_path_factory) -> dict[str, Path]:
    files = dict(checkpoints)
    files["dino_vits8_hub"] = files["dino_vits8"]
    for name, model in (("resnet18", "resnet18"), ("resnet50_mocov2", "resnet50")):
        files[name] = tmp_path_factory.mktemp("resnets") / f"{name}.pth"
        torch.save(timm.create_model(model, num_classes=0).state_dict(), files[name])
    return files


def test_every_cell_resolves_on_a_few_files_in_the_genuine_formats(roots, weights, cards, depths):
    registry, loaded, seen = Registry([cards]), Loaded(), set()
    _, wanted = read_plan(published.PLAN, registry)
    for spec in (one.spec for one in wanted):
        if spec.backbone in ("dinov2_vits14", "resnet50"):
            continue  # what was random weights would have another digest than its card states
        if spec.dataset not in roots:
            continue  # test_iic.py runs these
        small = msgspec.structs.replace(
            spec,
            data={**spec.data, "root": str(roots[spec.dataset]), "partial": True},
            weights=str(weights[spec.backbone]) if spec.backbone in weights else None,
            aux={channel: str(depths[spec.dataset]) for channel in spec.aux},
        )
        cell = resolve(small, registry, loaded).cell(spec.seed)
        seen.add((cell.method.name, spec.dataset, cell.backbone.name))
    assert len({method for method, _, _ in seen}) >= 12
    assert {dataset for _, dataset, _ in seen} == set(roots)
