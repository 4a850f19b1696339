"""PiCIE: loss, k-means and views against literal forms, its switches, and being killed in every pass."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from fakes import method_module
from held_memory import Held
from killing import resumed
from torch import Tensor

from uss_bench.contracts import BackboneInfo
from uss_bench.errors import UsageError
from uss_bench.nn import label_training, lloyd
from uss_bench.nn.pyramid import Pyramid
from uss_bench.results.files import read_state

picie = method_module("picie")
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


# --- Loss ----------------------------------------------------------------------------------------


def literal_cross_entropy(code: Tensor, c: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    total, mass = torch.zeros((), dtype=torch.float64), 0.0
    for b in range(code.shape[0]):
        for y in range(code.shape[2]):
            for x in range(code.shape[3]):
                f = code[b, :, y, x]
                logits = [(f / f.norm()) @ one for one in c]
                k = int(labels[b, y, x])
                total = total - weights[k] * (logits[k] - torch.stack(logits).exp().sum().log())
                mass += float(weights[k])
    return total / mass


def test_both_losses_and_their_gradients_are_the_literal_ones():
    codes = [normal(2, 4, 2, 3, seed=s).requires_grad_() for s in (1, 2)]
    centroids = [normal(3, 4, seed=s) for s in (3, 4)]
    labels = [torch.randint(0, 3, (2, 2, 3), generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    weights = [torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.1, 0.2, 0.7]).double()]
    found = label_training.pair_losses(codes, centroids, labels, weights)
    expected = [
        sum(literal_cross_entropy(codes[a], centroids[b], labels[b], weights[b]) for a, b in pairs) / 2
        for pairs in (((0, 0), (1, 1)), ((0, 1), (1, 0)))
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-12)
        slopes = torch.autograd.grad(one, codes)
        for slope, literal in zip(slopes, torch.autograd.grad(other, codes), strict=True):
            torch.testing.assert_close(slope, literal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "expected"), [("frequency", [0.6, 0.0, 0.4]), ("none", [1 / 3] * 3)])
def test_weights_of_clusters_sum_to_one(kind, expected):
    weights = picie.PiCIE(clusters=3, class_weights=kind).weights(torch.tensor([6, 0, 4]))
    assert weights.tolist() == pytest.approx(expected)
    assert float(weights.sum()) == pytest.approx(1)


# --- k-means -------------------------------------------------------------------------------------


def test_points_belong_to_the_centroid_at_the_least_distance():
    points, centroids = normal(40, 3), 2 * normal(5, 3, seed=1)
    expected = [min(range(5), key=lambda k: float((p - centroids[k]).square().sum())) for p in points]
    assert lloyd.nearest(points, centroids).tolist() == expected


def test_the_first_centroids_are_those_of_the_literal_algorithm():
    points = normal(60, 3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(7))
    c = [points[i].clone() for i in order[:4]]
    for _ in range(5):
        own = [min(range(4), key=lambda k: float((p - c[k]).square().sum())) for p in points]
        c = [torch.stack([p for p, o in zip(points, own, strict=True) if o == k]).mean(0) for k in range(4)]
    found = lloyd.lloyd(points, 4, 5, torch.Generator().manual_seed(7))
    torch.testing.assert_close(found, torch.stack(c))


def test_an_empty_cluster_takes_half_of_the_largest():
    points = torch.cat([normal(30, 2) * 0.1, normal(30, 2, seed=1) * 0.1 + 5]).repeat(1, 1)
    points[:, :] = points[:1]
    points[30:] += 5
    found = lloyd.lloyd(points, 3, 4, torch.Generator().manual_seed(0))
    assert found.isfinite().all()
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_centroids_that_move_are_the_running_means_of_all_their_points():
    batches = [normal(50, 3, seed=seed) for seed in range(4)]
    centroids = lloyd.lloyd(batches[0], 3, 10, torch.Generator().manual_seed(0))
    own = lloyd.nearest(batches[0], centroids)
    centroids, counts = lloyd.sums_and_counts(batches[0], own, 3)
    centroids /= counts[:, None]
    members = [[p for p, k in zip(batches[0], own, strict=True) if k == one] for one in range(3)]
    for batch in batches[1:]:
        for p, k in zip(batch, lloyd.nearest(batch, centroids).tolist(), strict=True):
            members[k].append(p)
        lloyd.move(centroids, counts, batch)
        torch.testing.assert_close(centroids, torch.stack([torch.stack(one).mean(0) for one in members]))
    assert counts.tolist() == [len(one) for one in members]


def test_kmeans_holds_no_table_of_all_points_by_all_clusters():
    points, centroids = torch.rand(100_000, 4), torch.rand(1000, 4)
    counts = torch.ones(1000, dtype=torch.float64)
    with Held() as held:
        lloyd.move(centroids, counts, points)
    # Distances of a part and twice them for a product; the whole table would be 400 MB, and one-hot 800.
    assert held.peak < 4 * 4 * lloyd._PIECE
    assert held.peak < 100_000 * 1000 * 4


def test_kmeans_in_parts_is_kmeans(monkeypatch):
    points, centroids = normal(50, 3), normal(4, 3, seed=1)
    whole = lloyd.nearest(points, centroids)
    sums, counts = lloyd.sums_and_counts(points, whole, 4)
    monkeypatch.setattr(lloyd, "_PIECE", 4 * 7)
    assert torch.equal(lloyd.nearest(points, centroids), whole)
    found = lloyd.sums_and_counts(points, whole, 4)
    torch.testing.assert_close(found[0], sums)
    assert torch.equal(found[1], counts)


def test_first_centroids_hold_a_sample_and_not_all_positions():
    """The released code keeps every position of 20 batches: 16.8 GB."""
    ctx = SimpleNamespace(
        device=torch.device("cpu"),
        generator=lambda *key: torch.Generator().manual_seed(0),
        steps=lambda total, **keep: range(1, total + 1),
    )
    method = picie.PiCIE(clusters=3, dim=16, cluster_batch_size=2, init_batches=20, init_points=100)
    method.net = torch.nn.Identity()
    centroids = torch.zeros(3, 16)

    class Items:
        def __len__(self):
            return 40

        def batches(self, sampler):
            return ((chosen, chosen) for chosen in sampler)

    def code(chosen, _):
        return torch.rand(len(chosen), 16, 20, 20)

    with Held() as held:
        method.cluster(centroids, code, Items(), ctx, 1, grid=(20, 20))
    every_position = 40 * 400 * 16 * 4
    assert held.peak < every_position / 2
    assert centroids.abs().sum(dim=1).min() > 0


# --- The network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_the_decoder_adds_enlarged_levels(size):
    torch.manual_seed(0)
    net = Pyramid("test_resnet", 8).double().eval()
    images = normal(2, 3, *size).sigmoid()
    stages = net.trunk((images - net.mean) / net.std)
    code = None
    for level, stage in zip(list(net.levels)[::-1], stages[::-1], strict=True):
        weight, bias = level.weight[:, :, 0, 0], level.bias
        own = torch.einsum("dc,bchw->bdhw", weight, stage) + bias[:, None, None]
        code = own if code is None else own + F.interpolate(code, own.shape[2:], mode="bilinear")
    torch.testing.assert_close(net(images), code)
    assert net(images).shape == (2, 8, math.ceil(size[0] / 4), math.ceil(size[1] / 4))


def test_the_network_begins_as_the_backbone_and_another_one_is_refused():
    torch.manual_seed(0)
    donor = timm.create_model("resnet18", num_classes=0)
    state = {f"network.{name}": value for name, value in donor.state_dict().items()}
    part = SimpleNamespace(state_dict=lambda: state)

    def backbone(dim: int, patch: int) -> SimpleNamespace:
        info = BackboneInfo(name="given", patch=patch, dim=dim)
        return SimpleNamespace(info=info, patch=patch, trainable=lambda last_blocks: part)

    method = picie.PiCIE(clusters=3)
    method.bind(backbone(512, 32))
    logs: list[str] = []
    method.begin(SimpleNamespace(device=torch.device("cpu"), log=logs.append))
    assert not logs
    images = torch.rand(1, 3, 64, 64)
    last = method.net.eval().trunk(images)[-1]
    torch.testing.assert_close(last, donor.eval().forward_features(images))
    for wrong in (backbone(2048, 32), backbone(512, 8)):
        with pytest.raises(UsageError, match="A resnet18 is trained here"):
            picie.PiCIE(clusters=3).bind(wrong)
    random = picie.PiCIE(clusters=3)
    random.begin(SimpleNamespace(device=torch.device("cpu"), log=logs.append))
    assert logs == ["The weights of resnet18 begin at random."]


# --- Whole runs ----------------------------------------------------------------------------------

SWITCHES = {
    "grayscale": True,
    "blur": "stated",
    "cluster_statistics": "running",
    "class_weights": "none",
    "colors_in_training": "second",
    "weight_across": 0.0,
    "weight_within": 0.5,
}


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_what_is_learned(run, states, name):
    def learned(**params):
        outcome = run("picie", **FAST, params={**SMALL, "epochs": 1, **params})
        return read_state(outcome.path, outcome.record)

    if not states:
        states["default"] = learned()
    assert learned(**{name: SWITCHES[name]}) != states["default"]


PASSES = ("first centroids", "k-means", "labels", "training")


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    return {}


@pytest.mark.parametrize("pass_", PASSES)
def test_a_run_killed_in_any_pass_ends_with_the_same_record(run, whole, pass_, monkeypatch):
    if not whole:
        outcome = run("picie", **FAST, params=SMALL)
        whole["record"], whole["state"] = outcome.record, read_state(outcome.path, outcome.record)
    outcome = resumed(run, monkeypatch, pass_, "picie", **FAST, params=SMALL)
    assert outcome.record.curves == whole["record"].curves
    assert outcome.record.candidates == whole["record"].candidates
    assert read_state(outcome.path, outcome.record) == whole["state"]
