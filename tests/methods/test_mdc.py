"""MDC: its classifier and loss against literal forms, its switches, its last clusters, and being killed."""

from __future__ import annotations

import pytest
import torch
from fakes import method_module
from killing import resumed
from running import Run
from safetensors.torch import load
from torch import Tensor

from uss_bench.errors import ContractError, UsageError
from uss_bench.experiment.isolation import IsolatingRegistry
from uss_bench.experiment.reuse import training_inputs
from uss_bench.features.inputs import assemble
from uss_bench.nn.epochs import unit_points
from uss_bench.nn.label_training import fresh_classifier
from uss_bench.nn.lloyd import nearest
from uss_bench.plugins.in_place import method_plugin
from uss_bench.results.files import read_state

mdc = method_module("mdc")
FAST = {"protocol": "stego320@2[eval_side=32,crf=none]", "training": {"side": 32}}
SMALL = {
    "network": "test_resnet",
    "epochs": 2,
    "dim": 8,
    "batch_size": 4,
    "cluster_batch_size": 2,
    "init_batches": 1,
    "init_points": 300,
    "kmeans_iterations": 3,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- The classifier --------------------------------------------------------------------------------


def test_a_fresh_classifier_is_small_and_belongs_to_its_epoch():
    one, again, other = (fresh_classifier(64, 27, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.weight.shape == (27, 64, 1, 1)
    assert one.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not one.bias.any()
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("kind", ["learned", "centroids"])
def test_logits_and_gradients_are_those_of_a_loop_over_positions(kind):
    method = mdc.MDC(clusters=3, dim=4, classifier=kind)
    method.centroids = normal(3, 4, seed=1)
    classifier = fresh_classifier(4, 3, torch.Generator().manual_seed(0)).double()
    code = normal(2, 4, 2, 3, seed=2).requires_grad_()
    logits = method.logits(code, classifier)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                f = code[b, :, y, x] / code[b, :, y, x].norm()
                weights = classifier.weight[:, :, 0, 0] if kind == "learned" else method.centroids
                torch.testing.assert_close(logits[b, :, y, x], weights @ f)
    logits.square().sum().backward()
    assert code.grad.abs().sum() > 0
    assert (classifier.weight.grad is not None) == (kind == "learned")


# --- Whole runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


SWITCHES = {
    "classifier": "centroids",
    "final": "train",
    "grayscale": True,
    "blur": "stated",
    "cluster_statistics": "running",
    "class_weights": "none",
    "lr_drop_every": 1,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_what_is_learned(run, states, name):
    def learned(**params):
        outcome = run("mdc", **FAST, params={**SMALL, **params})
        return read_state(outcome.path, outcome.record)

    if not states:
        states["default"] = learned()
    assert learned(**{name: SWITCHES[name]}) != states["default"]


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    return {}


@pytest.mark.parametrize("pass_", ["first centroids", "k-means", "labels", "training"])
def test_a_run_killed_in_any_pass_ends_with_the_same_record(run, whole, pass_, monkeypatch):
    if not whole:
        outcome = run("mdc", **FAST, params=SMALL)
        whole["record"], whole["state"] = outcome.record, read_state(outcome.path, outcome.record)
    outcome = resumed(run, monkeypatch, pass_, "mdc", **FAST, params=SMALL)
    assert outcome.record.curves == whole["record"].curves
    assert read_state(outcome.path, outcome.record) == whole["state"]


# --- The clusters that predict -------------------------------------------------------------------------


def test_the_last_clusters_are_those_of_the_images_that_were_asked_for(run, states):
    """Lloyd's fixed point: of the images that were clustered, each centroid is the mean of its positions."""
    fast = {**FAST, "protocol": "stego320@2[eval_side=32,resize=bilinear,crf=none]"}
    params = {**SMALL, "init_points": 10**6, "init_batches": 99, "kmeans_iterations": 60, "epochs": 1}
    params["cluster_statistics"] = "running"
    distance = {}
    for final in ("test", "train"):
        outcome = run("mdc", **fast, params={**params, "final": final})
        setup = run.setup("mdc", **fast, params={**params, "final": final})
        method = setup.make_method(read_state(outcome.path, outcome.record))
        note = "unlabeled test images were read in training"
        assert (note in outcome.record.notes) == (final == "test")
        for split, images in (("test", setup.test_images), ("train", setup.train_images)):
            items = setup.evaluation_items(images)
            batch = assemble(["image"], items, None, range(len(images)), torch.device("cpu"))
            points = points_of(method, batch)
            own = nearest(points, method.centroids)
            means = torch.stack([points[own == k].mean(0) for k in own.unique()])
            distance[final, split] = float((means - method.centroids[own.unique()]).abs().max())
    assert distance["test", "test"] < 1e-4 < distance["test", "train"]
    assert distance["train", "train"] < 1e-4 < distance["train", "test"]


def points_of(method, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return unit_points(method.embed(batch))


def test_a_state_that_saw_test_images_belongs_to_these(run):
    of_test, of_train = (
        training_inputs(run.setup("mdc", **FAST, params={**SMALL, "final": final}), 0)
        for final in ("test", "train")
    )
    assert of_test.keys() - of_train.keys() == {"test images"}


class Curious:
    """A method that asks for test images, and says that it does or not."""

    inputs = ("image",)

    def __init__(self, *, clusters: int, says_so: bool = True) -> None:
        self.clusters, self.reads_test_images = clusters, says_so

    def train(self, data, ctx):
        self.seen = torch.tensor(len(ctx.test_images()))

    def embed(self, batch):
        return batch["image"]

    def classify(self, code):
        return code[:, :1].expand(-1, self.clusters, -1, -1)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_test_images_are_given_to_who_says_so_and_to_nobody_else(run):
    run.registry.add(method_plugin(Curious, "curious"))
    outcome = run("curious", **FAST)
    state = load(read_state(outcome.path, outcome.record))
    assert int(state["seen"]) == len(run.setup("curious", **FAST).test_images)
    with pytest.raises(ContractError, match="does not say that it reads them"):
        run("curious", **FAST, params={"says_so": False})


def test_an_isolated_process_has_no_test_image(run):
    isolated = Run(IsolatingRegistry(run.registry), run.folder / "isolated")
    with pytest.raises(UsageError, match="reads test images"):
        isolated("mdc", **FAST, params=SMALL)
