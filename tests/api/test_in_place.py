"""Methods and backbones that are defined where they are used, as in a notebook."""

from __future__ import annotations

import linecache
import textwrap

import numpy as np
import pytest
import torch
from running import PLUGINS, SMALL, SMALL_TRAINING
from torch import Tensor

import uss_bench
from uss_bench.backbones.from_module import ModuleBackbone
from uss_bench.errors import ContractError, UsageError
from uss_bench.plugins.in_place import method_plugin, sources_of
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.code import code_hash

QUICK = {"protocol": SMALL, "training": SMALL_TRAINING, "plugins": [PLUGINS], "workers": 1, "device": "cpu"}
FACTOR = 3.0


def scaled(code: Tensor) -> Tensor:
    return FACTOR * code


class FirstChannels:
    """Names clusters by the greatest of the first channels."""

    def __init__(self, *, clusters: int, shift: float = 0.0) -> None:
        self.clusters, self.shift = clusters, shift

    def train(self, data, ctx):
        assert len(ctx.features(["tokens"])) == len(data)

    def embed(self, batch):
        return scaled(batch["tokens"][:, : self.clusters]) + self.shift

    def classify(self, code):
        return code

    def state_dict(self):
        return {"shift": torch.tensor(self.shift)}

    def load_state_dict(self, state):
        self.shift = float(state["shift"])


def test_a_class_is_a_method(tmp_path):
    (entry,) = uss_bench.run(FirstChannels, "tiny", params={"shift": 1.0}, out=tmp_path, **QUICK)
    cell = entry.record.cell
    assert (cell.method.name, cell.method.params) == ("first-channels", {"clusters": 2, "shift": 1.0})
    assert any("defined in Python" in note for note in entry.record.notes)
    assert entry.record.last is not None
    path = tmp_path / "tiny"
    assert len(list(path.glob("*.json"))) == 1
    uss_bench.run(FirstChannels, "tiny", params={"shift": 1.0}, out=tmp_path, **QUICK)
    assert len(list(path.glob("*.json"))) == 1  # it was not run again


def test_what_was_defined_in_python_is_loaded_with_its_definition(tmp_path):
    net = torch.nn.Conv2d(3, 6, 8, stride=8)
    mine = uss_bench.module_backbone(lambda images: net(images), patch=8, name="mine")
    asked = {"method": [FirstChannels, "dino"], "backbone": [mine, "tinyvit"], "params": {"dino.steps": 3}}
    runs = uss_bench.run(dataset="tiny", out=tmp_path, note="a remark", **asked, **QUICK)
    method, backbone = (
        "method 'first-channels' was defined in Python",
        "backbone 'mine' was defined in Python",
    )
    assert [one.record.notes for one in runs] == [
        ["a remark", method, backbone],
        ["a remark", backbone],
        ["a remark", method],
        ["a remark"],
    ]
    given = {"plugins": [PLUGINS], "device": "cpu"}
    image = np.zeros((24, 32, 3), np.uint8)
    model = uss_bench.load(runs[0], method=FirstChannels, backbone=mine, **given)
    assert model.predict(image, crf=False).clusters.shape == (24, 32)
    assert uss_bench.load(runs[2], method=FirstChannels, **given).record.id == runs[2].record.id
    for run, kind in ((runs[1], "backbone"), (runs[2], "method")):
        with pytest.raises(UsageError, match="was defined in Python, and is not known here") as caught:
            uss_bench.load(run, **given)
        assert f"{kind}=…" in str(caught.value.hint)
    with pytest.raises(UsageError, match="is one of the backbones, not of the methods"):
        uss_bench.load(runs[2], method=mine, **given)


def test_keywords_are_those_of_a_spec(tmp_path):
    plugin = uss_bench.method(FirstChannels, name="mine", alpha=2.0, minimum={"shift": 0})
    (entry,) = uss_bench.run(plugin, "tiny", out=tmp_path, **QUICK)
    assert (entry.record.cell.method.name, entry.record.cell.alpha) == ("mine", 2.0)
    with pytest.raises(UsageError, match="shift must be at least 0"):
        uss_bench.run(plugin, "tiny", params={"shift": -1.0}, out=tmp_path, **QUICK)
    with pytest.raises(UsageError, match="unknown field `alhpa`"):
        uss_bench.method(FirstChannels, alhpa=2.0)
    with pytest.raises(UsageError, match="no name for a method"):
        uss_bench.method(FirstChannels, name="My Method")


def test_what_cannot_be_sent_to_other_processes_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is defined here"):
        uss_bench.run(FirstChannels, "tiny", seeds=2, jobs=2, out=tmp_path, **QUICK)
    with pytest.raises(UsageError, match="called 'dino' already"):
        uss_bench.run(uss_bench.method(FirstChannels, name="dino"), "tiny", out=tmp_path, **QUICK)


def digest(entry) -> str:
    return code_hash(method_plugin(entry, "mine", inputs=["tokens"]), TrainingGeometry())


CELL = """
STEPS = {steps}

def helper(x):
    return x + {added}

class Mine:
    '''{words}'''
    RATE = {rate}
    def __init__(self, *, clusters: {kind}):
        self.clusters = clusters
    def train(self, data, ctx):
        # {words}
        for _ in range(STEPS):
            helper(1)
"""


def notebook(number: int, **changes: object) -> type:
    """Define a class as a cell of a notebook does: its module has no file, and its lines are in a cache."""
    given = {"steps": 3, "added": 1, "words": "Words.", "kind": "int", "rate": 0.1, **changes}
    source = textwrap.dedent(CELL.format(**given))
    name = f"<ipython-input-{number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), scope)
    return scope["Mine"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"words": "Other words."}, True),
        ({"kind": "float"}, True),
        ({"steps": 4}, False),
        ({"added": 2}, False),
        ({"rate": 0.2}, False),
    ],
)
def test_the_digest_of_a_notebooks_class_is_that_of_what_it_computes(change, same):
    assert (digest(notebook(1)) == digest(notebook(2, **change))) is same


def test_sources_hold_functions_constants_and_modules_of_the_harness():
    found = sources_of(FirstChannels)
    assert {"FirstChannels.embed", "scaled"} <= found.keys()
    assert "FACTOR = 3.0" in found.values()


def test_a_class_whose_source_is_unknown_is_refused():
    scope: dict = {"__name__": "__main__"}
    exec("class Typed:\n    def train(self, data, ctx): ...", scope)
    with pytest.raises(UsageError, match="is not known, and records"):
        uss_bench.method(scope["Typed"])


def test_a_module_is_a_backbone(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 6, 8, stride=8)
    mine = uss_bench.module_backbone(lambda images: net(images), patch=8, name="mine")
    (entry,) = uss_bench.run("dino", "tiny", backbone=mine, params={"steps": 3}, out=tmp_path, **QUICK)
    assert entry.record.cell.backbone.name == "mine"
    tokens = ModuleBackbone(net, patch=8, name="same")
    image = torch.rand(2, 3, 16, 24)
    assert torch.equal(tokens(image, ["tokens"])["tokens"], net(image))
    assert tokens.info.dim == 6


def test_tokens_in_a_row_are_put_onto_the_grid_and_pixels_normalized():
    def features(images: Tensor) -> Tensor:
        return images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(2).transpose(1, 2)

    backbone = ModuleBackbone(features, patch=4, name="means", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    image = torch.rand(1, 3, 8, 12)
    found = backbone(image, ["tokens"])["tokens"]
    assert found.shape == (1, 3, 2, 3)
    assert torch.allclose(found, (torch.nn.functional.avg_pool2d(image, 4) - 0.5) / 0.5, atol=1e-6)


def test_the_digest_of_a_backbone_follows_its_weights_and_settings():
    first, second = torch.nn.Conv2d(3, 6, 8, stride=8), torch.nn.Conv2d(3, 6, 8, stride=8)
    assert ModuleBackbone(first, patch=8, name="a").sha256 != ModuleBackbone(second, patch=8, name="a").sha256
    second.load_state_dict(first.state_dict())
    assert ModuleBackbone(first, patch=8, name="a").sha256 == ModuleBackbone(second, patch=8, name="b").sha256
    moved = ModuleBackbone(first, patch=8, name="a", mean=(0.1, 0.1, 0.1))
    assert moved.sha256 != ModuleBackbone(first, patch=8, name="a").sha256


def test_the_weights_of_a_closure_and_of_a_bound_method_count():
    def of(net: torch.nn.Module) -> tuple[ModuleBackbone, ...]:
        return (
            ModuleBackbone(lambda images: net(images), patch=8, name="a"),
            ModuleBackbone(net.forward, patch=8, name="a"),
        )

    one, other = (of(torch.nn.Conv2d(3, 6, 8, stride=8)) for _ in range(2))
    assert all(a.sha256 != b.sha256 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "features",
    [
        lambda images: images,
        lambda images: images.flatten(2),
        lambda images: torch.zeros(len(images), 5, 7),
        lambda images: None,
    ],
)
def test_features_of_another_shape_are_refused(features):
    with pytest.raises(ContractError, match="features are"):
        ModuleBackbone(features, patch=8, name="wrong")


def test_a_backbone_takes_images_as_people_have_them():
    vit = uss_bench.backbone("tinyvit", device="cpu")
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)
    whole = vit(batch)["tokens"]
    assert whole.shape == (2, vit.info.dim, 4, 5)
    tensor = torch.tensor(batch).permute(0, 3, 1, 2) / 255
    for form in (list(batch), tensor):
        assert torch.allclose(vit(form)["tokens"], whole, atol=1e-5)
    assert torch.allclose(vit(batch[0], ["tokens"])["tokens"], whole[:1], atol=1e-4)
    with pytest.raises(UsageError, match="2 sizes"):
        vit([batch[0], batch[0][:24]])
    with pytest.raises(UsageError, match="not a multiple"):
        vit(batch[:, :30])
