"""TransFGU: heat, losses and teachers against literal forms, its switches, and being killed in every pass."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fakes import method_module
from running import Run
from torch import Tensor

from uss_bench.errors import UsageError
from uss_bench.protocol import get_protocol
from uss_bench.results.files import read_state
from uss_bench.training.context import RunContext

transfgu = method_module("transfgu")
heat = sys.modules[transfgu.heat_maps.__module__]
FAST = {
    "backbone": "tinyvit",
    "protocol": "transfgu@1[eval_side=32]",
    "training": {"side": 32, "fit": "squash", "resize": "bilinear"},
}
SMALL = {
    "dim": 8,
    "heads": 2,
    "layers": 1,
    "epochs": 3,
    "batch_size": 4,
    "refresh_after": 1,
    "refresh_every": 1,
    "heat_batch_size": 2,
    "window_stride": 1.0,
    "kmeans_iterations": 3,
    "lr": 1e-3,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Losses ----------------------------------------------------------------------------------------


def literal(logits: Tensor, classes: Tensor, target: Tensor, order: Tensor) -> dict[str, Tensor]:
    """The four losses by loops over positions, images and pairs."""
    b, k, h, w = logits.shape
    entropy, unsure, shuffled = [], [], []
    for i in range(b):
        for y in range(h):
            for x in range(w):
                p = logits[i, :, y, x].exp() / logits[i, :, y, x].exp().sum()
                entropy.append(-p[target[i, y, x]].log())
                shuffled.append(-p[order[target[i, y, x]]].log())
                ranked = sorted(p, key=Tensor.item, reverse=True)
                unsure.append(1 - (ranked[0] - ranked[1]))
    pairs = [
        1 + one[m] @ one[n] / (one[m].norm() * one[n].norm())
        for one in classes
        for m in range(k)
        for n in range(m + 1, k)
    ]
    return {
        "pseudo_label": sum(entropy) / len(entropy),
        "uncertainty": sum(unsure) / len(unsure),
        "diversity": sum(pairs) / len(pairs),
        "shuffled": sum(shuffled) / len(shuffled),
    }


def test_the_four_losses_and_their_gradients_are_those_of_loops():
    logits, classes = normal(2, 4, 2, 3).requires_grad_(), normal(2, 4, 5, seed=1).requires_grad_()
    target = torch.randint(0, 4, (2, 2, 3), generator=torch.Generator().manual_seed(2))
    order = torch.tensor([2, 0, 3, 1])
    method = transfgu.TransFGU(clusters=4)
    found = method.terms(lambda tokens: (logits, classes), torch.zeros(1), target, order)
    for name, expected in literal(logits, classes, target, order).items():
        assert found[name].item() == pytest.approx(expected.item(), rel=1e-12), name
        leaf = classes if name == "diversity" else logits
        one, other = (
            torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (found[name], expected)
        )
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_single_cluster_has_no_loss_of_its_own():
    assert transfgu.uncertainty_loss(normal(1, 1, 2, 2)).item() == 0
    assert transfgu.diversity_loss(normal(1, 1, 4)).item() == 0


def test_the_decoder_is_a_cosine_normalized_over_classes():
    torch.manual_seed(0)
    net = transfgu.MaskTransformer(6, 8, 3, 2, 2, 0.1).double().eval()
    tokens = normal(2, 6, 2, 3)
    logits, classes = net(tokens)
    torch.testing.assert_close(classes.norm(dim=2), torch.ones(2, 3, dtype=torch.float64))
    rows = torch.cat([net.enter(tokens.flatten(2).transpose(1, 2)), net.class_tokens.expand(2, -1, -1)], 1)
    seen = net.blocks(rows)
    for b in range(2):
        for place in range(6):
            f = seen[b, place]
            cosine = torch.stack([f @ seen[b, 6 + k] / f.norm() / seen[b, 6 + k].norm() for k in range(3)])
            expected = (cosine - cosine.mean()) / (cosine.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(logits[b, :, place // 3, place % 3], expected)
    gram = net.class_tokens @ net.class_tokens.T
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


# --- Windows and heat --------------------------------------------------------------------------------


def test_windows_are_of_four_sizes_and_lie_within_the_image():
    boxes = heat.window_boxes((20, 40), 0.5)
    assert {(bottom - top, right - left) for top, bottom, left, right in boxes} == {
        (10, 20),
        (8, 16),
        (6, 12),
        (4, 8),
    }
    assert all(0 <= top < bottom <= 20 and 0 <= left < right <= 40 for top, bottom, left, right in boxes)
    covered = torch.zeros(20, 40)
    for top, bottom, left, right in boxes:
        covered[top:bottom, left:right] += 1
    assert covered.min() > 0


def test_a_window_is_foreground_above_half_of_its_patches_and_background_above_four_fifths():
    attention = torch.zeros(4, 10)
    attention[:, 4:] = 1.0
    boxes = [(0, 4, 0, 4), (0, 4, 0, 5), (0, 4, 0, 6), (0, 4, 0, 8), (0, 4, 0, 9), (0, 4, 4, 10)]
    front, back = heat.kinds(attention, boxes, 0.5, 0.8)
    shares = [0.0, 0.2, 1 / 3, 0.5, 5 / 9, 1.0]
    assert front.tolist() == [share > 0.5 for share in shares]
    assert back.tolist() == [True, False, False, False, False, False]  # 0.8 of the second is not above 0.8


def test_evidence_is_the_clearest_part_of_the_negative_gradient():
    gradient = torch.tensor([[-5.0, 3.0, -3.0, -1.5, -0.5]])
    assert heat.evidence(gradient, 0.8).tolist() == [[5.0, 0.0, 3.0, 0.0, 0.0]]
    assert heat.evidence(gradient, 0.81).tolist() == [[5.0, 0.0, 3.0, 1.5, 0.0]]
    paid = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    found = heat.heat(gradient, paid, 0.8)
    torch.testing.assert_close(found, torch.tensor([[5.25, 0.0, 4.0, 0.5, 0.25]]))


class TwoPatches:
    """A backbone of one head whose class token is a mean of two patches, by its attention to them."""

    patch = 1
    values = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)

    def backbone(self, images: Tensor, facets, *, grad: bool = False) -> dict[str, Tensor]:
        logits = images.double().mean(dim=1).flatten(1)
        scores = torch.cat([torch.full_like(logits[:, :1], -50.0), logits], dim=1)
        attention = scores.softmax(dim=1)[:, None, None].expand(-1, 1, 3, -1).clone().requires_grad_()
        return {"attention": attention, "cls": attention[:, 0, 0, 1:] @ self.values}


@pytest.mark.parametrize("scale", ["batch", "image"])
def test_heat_follows_the_gradient_of_the_cosine_and_the_batch_as_stated(scale):
    images = torch.tensor([[0.3, 0.9], [0.7, 0.1]])[:, None, None, :].expand(-1, 3, -1, -1)
    centroids = torch.tensor([[1.0, 0.2], [0.1, 1.0]], dtype=torch.float64)
    found = heat.heat_maps(TwoPatches(), images, centroids, attended=1, mass=1.0, scale=scale)
    assert found.shape == (2, 2, 1, 2)
    for b in range(2):
        a = images[b, 0, 0].double().softmax(0)
        for k in range(2):
            slope = []
            for patch in range(2):
                step = torch.zeros(2, dtype=torch.float64)
                step[patch] = 1e-6
                up, down = (
                    1 - F.cosine_similarity((a + sign * step) @ TwoPatches.values, centroids[k], dim=0)
                    for sign in (1, -1)
                )
                slope.append(float(up - down) / 2e-6 / (2 if scale == "batch" else 1))
            for patch in range(2):
                expected = max(0.0, -slope[patch]) + (float(a[patch] / a.max()) if k == 0 else 0.0)
                expected = 0.0 if slope[patch] > 0 else expected
                assert found[b, k, 0, patch].item() == pytest.approx(expected, abs=1e-6)


def test_all_clusters_of_an_image_share_a_range():
    maps = normal(2, 3, 4, 4)
    scaled = heat.unit_range(maps)
    for one, own in zip(maps, scaled, strict=True):
        torch.testing.assert_close(own, (one - one.min()) / (one.max() - one.min()))
    assert not heat.unit_range(torch.ones(1, 2, 2, 2)).any()


# --- Teachers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "every", "expected"), [(2, 2, [0, 1, 0, 1, 0, 1]), (1, 1, [0] * 6), (2, 3, [0, 1, 0, 1, 2, 0])]
)
def test_a_teacher_lasts_as_long_as_it_should(after, every, expected):
    method = transfgu.TransFGU(clusters=2, refresh_after=after, refresh_every=every)
    assert [method.since_refresh(epoch) for epoch in range(1, 7)] == expected


@pytest.mark.parametrize("params", [{"dim": 9, "heads": 2}, {"foreground": 5}], ids=str)
def test_what_cannot_be_is_refused(params):
    with pytest.raises(UsageError):
        transfgu.TransFGU(clusters=4, **params)


def test_centroids_are_the_means_of_all_windows_that_are_nearest(tmp_path):
    rows, chosen = normal(60, 3).float().numpy(), (normal(60, seed=1) > -0.5).numpy()
    method = transfgu.TransFGU(clusters=3, kmeans_points=20, kmeans_iterations=50)
    ctx = SimpleNamespace(
        device=torch.device("cpu"),
        generator=lambda purpose: torch.Generator().manual_seed(0),
        log=lambda text: None,
    )
    found = method.cluster(rows, chosen, 3, "all", ctx)
    points = torch.from_numpy(rows[chosen])
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:20].sort().values
    draws = torch.Generator().manual_seed(0)
    torch.randperm(len(points), generator=draws)
    start = transfgu.lloyd(points[order], 3, 50, draws)
    own = [min(range(3), key=lambda k: float((p - start[k]).square().sum())) for p in points]
    members = [[p for p, k in zip(points, own, strict=True) if k == one] for one in range(3)]
    torch.testing.assert_close(found, torch.stack([torch.stack(one).mean(0) for one in members]))


# --- Whole runs --------------------------------------------------------------------------------------

# The scale of gradients is not among them: those of so small a network are too small beside the attention to
# move a target. What it does to heat is tested above.
SWITCHES = {
    "foreground": 0,
    "mass": 0.05,
    "teacher_share": 0.0,
    "weight_uncertainty": 0.0,
    "weight_diversity": 0.0,
    "shuffled_from": 0.1,
    "refresh_after": 3,
}


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_what_is_learned(run, states, name):
    def learned(**params):
        outcome = run("transfgu", **FAST, params={**SMALL, "foreground": 1, **params})
        return read_state(outcome.path, outcome.record)

    if not states:
        states["default"] = learned()
    assert learned(**{name: SWITCHES[name]}) != states["default"]


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("pass_", ["windows", "heat", "training"])
def test_a_run_killed_in_any_pass_ends_with_the_same_record(run, whole, pass_, monkeypatch):
    if not whole:
        outcome = run("transfgu", **FAST, params=SMALL)
        whole["record"], whole["state"] = outcome.record, read_state(outcome.path, outcome.record)
    steps, epochs = RunContext._steps, [2]

    def until(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            if label == "epochs":
                epochs[0] = step
            elif label == pass_ and epochs[0] == 2 and step == total:
                raise Killed
            yield step

    again = Run(run.registry, run.folder / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", until)
        with pytest.raises(Killed):
            again("transfgu", **FAST, snapshot_seconds=0, force="token", params=SMALL)
    outcome = again("transfgu", **FAST, snapshot_seconds=0, force="token", params=SMALL)
    assert any("resumed" in note for note in outcome.record.notes)
    assert outcome.record.curves == whole["record"].curves
    assert read_state(outcome.path, outcome.record) == whole["state"]


def test_the_published_evaluation_squashes_and_refines_nothing():
    protocol = get_protocol("transfgu@1")
    assert (protocol.extent, protocol.input_size, protocol.crf) == ("squash", (320, 320), None)
    assert (protocol.flip, protocol.upsample) == (False, "logits")
    assert get_protocol("transfgu@1[eval_width=640]").input_size == (320, 640)
