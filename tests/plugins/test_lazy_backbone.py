"""A backbone whose features are stored is not built, and when it is built changes no result."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from running import PLUGINS, SMALL, python

from uss_bench.errors import DataError
from uss_bench.features.store import positions_of
from uss_bench.plugins import lazy_backbone as lazy
from uss_bench.plugins.lazy_backbone import LazyBackbone, lazy_backbone
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.seeding import seed_everything

RUN = """
import sys
from uss_bench.cli import main
try:
    main()
finally:
    print(sorted({"torch", "timm", "torchvision"} & sys.modules.keys()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """The names of backbones in the order in which they were built."""
    names: list[str] = []

    def build(registry, name, **options):
        names.append(name)
        return load_backbone(registry, name, **options)

    monkeypatch.setattr(lazy, "load_backbone", build)
    return names


def draws(seed: int | None) -> list[float]:
    """Return a number of each global generator, seeded before unless `seed` is None."""
    if seed is not None:
        seed_everything(seed)
    return [torch.rand(()).item(), np.random.random(), random.random()]  # noqa: NPY002 - the global one


@pytest.mark.parametrize("name", ["tinyvit", "patchstats", "dense_sift", "none", "random_cnn"])
def test_facts_are_those_of_the_backbone_and_are_known_without_it(name, builds):
    reference = load_backbone(Registry(), name)
    for _ in range(2):
        found = lazy_backbone(Registry(), name)
        facts = ("name", "patch", "sha256", "info")
        assert [getattr(found, fact) for fact in facts] == [getattr(reference, fact) for fact in facts]
        assert positions_of(found) == positions_of(reference)
        assert found.to(torch.device("cpu")) is found
    assert builds == [name], "only the first time"


def test_it_is_built_when_it_runs_and_draws_nothing(builds, random_vit):
    options = {"weights": random_vit["weights"], "alias": random_vit["backbone_name"]}
    name = random_vit["backbone"]
    time.sleep(0.06)  # a file that changed just now may change again under the same time stamp
    lazy_backbone(Registry(), name, **options)
    found = lazy_backbone(Registry(), name, **options)
    assert isinstance(found, LazyBackbone)
    assert len(builds) == 1
    expected = draws(3)
    seed_everything(3)
    images = torch.full((1, 3, 32, 32), 0.3)
    tokens = found(images, ["tokens"])["tokens"]
    assert len(builds) == 2
    assert draws(None) == expected
    reference = load_backbone(Registry(), name, **options)
    assert torch.equal(tokens, reference(images, ["tokens"])["tokens"])
    assert isinstance(found.trainable(1), torch.nn.Module)
    assert found._model is not None, "what else it has is there, too"
    with pytest.raises(AttributeError):
        _ = found.no_such_thing


def test_other_weights_are_another_backbone_and_missing_ones_an_error(builds, random_vit, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(random_vit["weights"].read_bytes())
    options = {"weights": path, "alias": "mine"}
    first = lazy_backbone(Registry(), random_vit["backbone"], **options)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    second = lazy_backbone(Registry(), random_vit["backbone"], **options)
    assert first.sha256 != second.sha256
    path.unlink()
    with pytest.raises(DataError, match="do not exist"):
        lazy_backbone(Registry(), random_vit["backbone"], **options)


def test_backbones_from_elsewhere_are_built_every_time(builds, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "spec.toml").write_text(
        'kind = "backbone"\nname = "mine"\ntitle = "Mine"\nsummary = "of mine"\nadapter = "patchstats"\n'
    )
    registry = Registry([folder])
    for number in (1, 2):
        lazy_backbone(registry, "mine")
        assert len(builds) == number


def test_a_cell_whose_features_are_stored_imports_no_timm(tmp_path):
    words = [
        *("run", "--method", "dino", "--dataset", "toy3", "--limit", 2, "--protocol", SMALL, "--workers", 1),
        *("--training", "side=96", "--set", "steps=2", "--out", tmp_path / "out", "--plugin", PLUGINS),
    ]
    first = python(RUN, *words, cwd=tmp_path)
    second = python(RUN, *words, "--seed", 1, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.splitlines()[-1] == "['timm', 'torch', 'torchvision']"
    assert second.stdout.splitlines()[-1] == "['torch']"
