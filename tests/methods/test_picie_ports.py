"""The ports of PiCIE and MDC to frozen features, and the reconstruction of PiCIE+H."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import method_module
from killing import resumed
from planted import accuracy, kmeans

from uss_bench.data.feature_pairs import FeaturePair
from uss_bench.nn import label_training
from uss_bench.nn.epochs import unit_points
from uss_bench.nn.lloyd import nearest
from uss_bench.results.files import read_state
from uss_bench.runtime.seeding import derive_seed

FAST = {"protocol": "stego320@2[eval_side=32,crf=none]", "training": {"side": 32}}
SMALL = {"epochs": 2, "dim": 8, "batch_size": 4, "cluster_batch_size": 2, "init_batches": 1}
SMALL |= {"init_points": 300, "kmeans_iterations": 3}
METHODS = {
    "picie_proj": {"backbone": "patchstats", "params": SMALL},
    "mdc_proj": {"backbone": "patchstats", "params": SMALL},
    "picie_h": {"params": {**SMALL, "network": "test_resnet", "auxiliary_clusters": 6}},
}


def generator(purpose: str, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, purpose, *key))


def learned(run, method: str, **params: object) -> bytes:
    request = METHODS[method]
    outcome = run(method, **FAST, **{**request, "params": {**request["params"], **params}})
    return read_state(outcome.path, outcome.record)


# --- Views of features ---------------------------------------------------------------------------


def pair(drop: float) -> FeaturePair:
    return FeaturePair(generator, lambda f: f, lambda f: f, drop)


def test_both_codes_of_features_show_the_same_place():
    ramp = torch.linspace(0, 1, 28)
    features = torch.stack([ramp.expand(28, 28), ramp[:, None].expand(28, 28)]).expand(5, 2, 28, 28)
    first, second = (pair(0.0).code(view, 1, range(5), {"tokens": features}) for view in (0, 1))
    assert torch.equal(first, second), "a head that does nothing leaves no difference"
    assert any(one[0, 0, 0] > one[0, 0, -1] for one in first), "some are flipped"
    assert (first[0] - first[1]).abs().max() > 0.05, "each item has a place of its own"


def test_channels_are_lost_as_drawn_and_alike_in_every_pass():
    features = torch.ones(4, 1000, 3, 3)
    codes = [pair(0.25).code(view, 1, [3, 1, 0, 2], {"tokens": features}) for view in (0, 1)]
    for view, code in enumerate(codes):
        assert code.unique().tolist() == pytest.approx([0, 4 / 3])
        assert (code == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
        assert torch.equal(pair(0.25).code(view, 1, [0], {"tokens": features[:1]}), code[2:3])
        assert not torch.equal(pair(0.25).code(view, 2, [0], {"tokens": features[:1]}), code[2:3])
    assert not torch.equal(*codes)


# --- PiCIE+H -------------------------------------------------------------------------------------


def test_the_two_clusterings_weigh_the_same_while_nothing_is_learned():
    module = method_module("picie_h")
    own, other = module.balance(27, 1000)
    assert own + other == pytest.approx(1)
    assert own * math.log(27) == pytest.approx(other * math.log(1000))
    assert module.PiCIEH(clusters=27).clusterings() == [(27, own), (1000, other)]


# --- Whole runs ----------------------------------------------------------------------------------


SWITCHES = [
    *(("picie_proj", name) for name in ("drop", "standardize", "weight_across", "weight_within")),
    *(("mdc_proj", name) for name in ("drop", "standardize", "classifier", "lr_drop_every")),
    ("picie_h", "auxiliary_clusters"),
]
OTHER = {"drop": 0.4, "standardize": False, "weight_across": 0.0, "weight_within": 0.0}
OTHER |= {"classifier": "centroids", "lr_drop_every": 1, "auxiliary_clusters": 5}


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


@pytest.mark.parametrize(("method", "name"), SWITCHES)
def test_every_switch_changes_what_is_learned(run, states, method, name):
    if method not in states:
        states[method] = learned(run, method)
    assert learned(run, method, **{name: OTHER[name]}) != states[method]


@pytest.mark.parametrize(
    ("method", "pass_"),
    [
        *((m, pass_) for m in ("picie_proj", "mdc_proj") for pass_ in ("k-means", "labels", "training")),
        pytest.param("picie_h", "labels", marks=pytest.mark.slow),
        ("picie_h", "training"),
    ],
)
def test_a_run_killed_in_any_pass_ends_with_the_same_state(run, states, method, pass_, monkeypatch):
    if method not in states:
        states[method] = learned(run, method)
    outcome = resumed(run, monkeypatch, pass_, method, **FAST, **METHODS[method])
    assert read_state(outcome.path, outcome.record) == states[method]


def test_labels_that_are_trained_on_are_those_of_the_same_view(run, monkeypatch):
    """With a network that stays, the codes of the training pass have the labels of the labelling pass."""
    seen, losses = [], label_training.pair_losses

    def compare(codes, centroids, labels, weights):
        for code, c, own in zip(codes, centroids, labels, strict=True):
            seen.append(torch.equal(nearest(unit_points(code.detach()), c).reshape(own.shape), own))
        return losses(codes, centroids, labels, weights)

    monkeypatch.setattr(label_training, "pair_losses", compare)
    learned(run, "picie_proj", lr=0.0)
    assert len(seen) >= 4
    assert all(seen)


def test_the_losses_of_both_clusterings_are_in_the_record(run):
    request = METHODS["picie_h"]
    curves = run("picie_h", **FAST, **request).record.curves
    assert {"within", "across", "auxiliary_within", "auxiliary_across"} <= set(curves)


PLANTED = {"epochs": 4, "dim": 16, "batch_size": 8, "init_points": 5000, "lr": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["picie_proj", "mdc_proj"])
def test_a_port_finds_the_planted_classes_about_as_well_as_kmeans(run, method):
    assert accuracy(run, method, **PLANTED) > kmeans(run) - 5
