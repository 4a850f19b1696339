"""CAUSE: modularity, contrast and bank against literal forms, its switches, its phases, what it finds."""

from __future__ import annotations

import math
import sys

import numpy as np
import planted
import pytest
import test_loss_memory
import torch
import torch.nn.functional as F
from fakes import FakeContext, MemoryFeatures, method_module
from running import Run
from torch import Tensor

from uss_bench.errors import DataError, UsageError
from uss_bench.results.files import read_arrays, read_state
from uss_bench.training.context import RunContext

cause = method_module("cause")
modularity = sys.modules[cause.modularity_loss.__module__]
contrast = sys.modules[cause.front_door_loss.__module__]
bank = sys.modules[cause.Bank.__module__]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# --- Modularity ----------------------------------------------------------------------------------


def literal_modularity(centers: Tensor, tokens: Tensor) -> Tensor:
    """The released trace form, with all products in memory."""
    total = 0.0
    for x in unit(tokens):
        a = (x @ x.T).clamp(min=0) * (1 - torch.eye(len(x), dtype=x.dtype))
        d, e = a.sum(dim=1, keepdim=True), a.sum()
        w = a - (d / e) @ (d.T / e) * e
        c = (x @ unit(centers).T).clamp(min=0).T
        delta = torch.tanh(c[:, :, None] * c[:, None, :] / 0.1).max(dim=0).values
        total = total + ((w / e) @ delta).diagonal().sum()
    return -total / len(tokens)


@pytest.mark.parametrize("chunk", [1, 70, 2**24])
def test_modularity_and_its_gradient_are_those_of_the_trace_form(monkeypatch, chunk):
    monkeypatch.setattr(modularity, "_PRODUCTS", {"cpu": chunk})
    tokens = normal(2, 6, 4)
    results = []
    for loss in (modularity.modularity_loss, literal_modularity):
        centers = normal(5, 4, seed=1).requires_grad_()
        value = loss(centers, tokens)
        results.append((value, torch.autograd.grad(value, centers)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_two_separate_cliques_in_their_own_clusters_have_newmans_modularity_of_one_half():
    tokens = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]], dtype=torch.float64)
    found = modularity.modularity_loss(torch.eye(2, dtype=torch.float64), tokens)
    assert found.item() == pytest.approx(-0.5, abs=1e-6)  # tanh(10) is 1 to nine digits
    together = modularity.modularity_loss(torch.tensor([[1.0, 1.0]], dtype=torch.float64), tokens)
    assert together.item() == pytest.approx(0, abs=1e-3)


def test_pooling_takes_one_token_of_every_block():
    grid = torch.arange(2 * 6 * 4, dtype=torch.float32).view(2, 1, 6, 4)
    places = modularity.pooled(grid, 2, torch.Generator().manual_seed(0))
    taken = modularity.take(grid, places)[..., 0]
    for image in range(2):
        for number, value in enumerate(taken[image].tolist()):
            row, column = divmod(int(value) - 24 * image, 4)
            assert (row // 2, column // 2) == divmod(number, 2)
    places = [modularity.pooled(grid, 2, torch.Generator().manual_seed(s)) for s in range(5)]
    assert not all(torch.equal(places[0], other) for other in places[1:])
    assert modularity.pooled(torch.zeros(1, 1, 23, 23), 4, torch.Generator()).shape == (1, 25)


# --- Contrast ------------------------------------------------------------------------------------


def literal_front_door(student, teacher, codes, vectors, owners, codebook):
    b, n, _ = student.shape
    book = unit(codebook)
    terms = []
    for image in range(b):
        groups = [([(x, y) for x in range(b) for y in range(n)], None), (range(len(owners)), vectors)]
        for others, stored in groups:
            if len(others) == 0:
                continue
            losses = []
            for i in range(n):
                s, positive, negative = [], [], []
                for j in others:
                    code = codes[j[0], j[1]] if stored is None else owners[j]
                    target = teacher[j[0], j[1]] if stored is None else stored[j]
                    close = float(book[codes[image, i]] @ book[code])
                    s.append(unit(student[image, i]) @ unit(target) / 0.07)
                    itself = stored is None and j == (image, i)
                    positive.append(close > 0.3 and not itself)
                    negative.append(close < 0.1)
                pairs = [k for k in range(len(s)) if positive[k]]
                counted = [k for k in range(len(s)) if positive[k] or negative[k]]
                losses += [-s[k] + torch.log(sum(torch.exp(s[c]) for c in counted)) for k in pairs]
            if losses:
                terms.append(sum(losses) / len(losses))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("tile", [1, 13, 2**20])
@pytest.mark.parametrize("stored", [0, 5])
def test_the_contrast_and_its_gradient_are_those_of_loops(monkeypatch, stored, tile):
    monkeypatch.setattr(contrast, "_TILE", {"cpu": tile})
    codebook = normal(4, 3)
    codes = torch.tensor([[0, 1, 0], [2, 0, 3]])
    teacher, vectors = normal(2, 3, 5, seed=1), unit(normal(5, 5, seed=2))[:stored]
    owners = torch.tensor([0, 1, 2, 2, 0])[:stored]
    code, layer = normal(2, 3, 4, seed=3).requires_grad_(), torch.nn.Linear(4, 5).double()
    concepts = contrast.Concepts(codebook, 0.3, 0.1)
    terms, present = contrast.front_door_loss(code, layer, teacher, codes, (vectors, owners), concepts)
    expected = literal_front_door(layer(code), teacher, codes, vectors, owners, codebook)
    assert terms.shape == (4 if stored else 2,)
    torch.testing.assert_close(terms[present].mean(), expected)
    wanted = (code, layer.weight, layer.bias)
    slopes = (torch.autograd.grad(loss, wanted) for loss in (terms[present].mean(), expected))
    torch.testing.assert_close(*slopes)


def test_an_image_without_a_positive_pair_is_told_and_gives_no_gradient():
    codebook = torch.eye(4, 5, dtype=torch.float64)
    code, layer = normal(2, 2, 4).requires_grad_(), torch.nn.Linear(4, 5).double()
    codes = torch.tensor([[0, 0], [1, 2]])
    nothing = (normal(0, 5), torch.zeros(0, dtype=torch.int64))
    concepts = contrast.Concepts(codebook, 0.3, 0.1)
    terms, present = contrast.front_door_loss(code, layer, normal(2, 2, 5, seed=1), codes, nothing, concepts)
    assert present.tolist() == [True, False]
    (slope,) = torch.autograd.grad(terms.sum(), code)
    assert slope.isfinite().all()
    assert slope[0].any()
    assert not slope[1].any()


def test_memory_of_the_contrast_is_linear_in_the_bank_and_far_below_the_literal_matrices(monkeypatch):
    """A step against R rows: the literal form keeps matrices of anchors × R, ten of them or more."""
    monkeypatch.setattr(contrast, "_TILE", {"cpu": 2**18})
    anchors, dim, projection = 160, 8, 16

    def peak(rows: int) -> int:
        code, layer = normal(4, anchors // 4, dim).float().requires_grad_(), torch.nn.Linear(dim, projection)
        codebook, codes = normal(8, 5).float(), torch.arange(anchors).view(4, -1) % 8
        kept = unit(normal(rows, projection).float()), torch.arange(rows) % 8
        concepts = contrast.Concepts(codebook, 0.3, 0.1)

        def step() -> None:
            terms, _ = contrast.front_door_loss(
                code, layer, normal(4, 40, projection).float(), codes, kept, concepts
            )
            terms.sum().backward()

        return test_loss_memory.measuring.peak_bytes(step)

    small, large = peak(20_000), peak(80_000)
    assert large < 4.5 * small
    assert large < 4 * anchors * 80_000 / 2, "less than half of one matrix of anchors × R"


# --- Bank ----------------------------------------------------------------------------------------


class LiteralBank:
    """The released shape: a list per code, of which the newest 100 stay."""

    def __init__(self, codes: int) -> None:
        self.kept: list[list[Tensor]] = [[] for _ in range(codes)]

    def update(self, vectors: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        order = torch.randperm(len(codes), generator=generator)
        for code in codes.unique().tolist():
            new = [unit(vectors[i].float()).half() for i in order.tolist() if codes[i] == code]
            self.kept[code] = (self.kept[code] + new[: int(len(new) * 0.5)])[-100:]


def test_the_bank_holds_what_lists_of_the_newest_hundred_of_each_code_hold():
    ours, literal = bank.Bank(6, 3, torch.device("cpu")), LiteralBank(6)
    choices = torch.Generator().manual_seed(9)
    for step in range(12):
        count = (40, 7, 330)[step % 3]  # 330 tokens of few codes: more than 100 enter for one
        codes = torch.randint(1 + step % 5, (count,), generator=choices)
        vectors = normal(count, 3, seed=step)
        for one in (ours, literal):
            one.update(vectors, codes, torch.Generator().manual_seed(step))
    for code, expected in enumerate(literal.kept):
        found = ours.vectors[ours.codes == code]
        assert sorted(map(tuple, found.tolist())) == sorted(tuple(one.tolist()) for one in expected)
    assert max(map(len, literal.kept)) == 100
    assert len(ours.vectors) == sum(map(len, literal.kept))


def test_the_bank_goes_on_where_it_was():
    first, second = (bank.Bank(4, 2, torch.device("cpu")) for _ in range(2))
    first.update(normal(6, 2), torch.tensor([0, 0, 1, 1, 1, 1]), torch.Generator().manual_seed(0))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for one in (first, second):
        one.update(normal(400, 2, seed=1), torch.arange(400) % 3, torch.Generator().manual_seed(1))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.codes, second.codes)


# --- Heads ---------------------------------------------------------------------------------------


def test_the_decoder_is_one_post_norm_layer_over_the_codes_of_tokens():
    torch.manual_seed(0)
    decoder = cause.Decoder(torch.randn(7, 6), (2, 3), 0.1)
    head = cause.Head(6, 4, 0.1, decoder).double().eval()
    f = normal(2, 6, 2, 3)
    tokens = f.flatten(2).transpose(1, 2)
    book = unit(decoder.codebook)
    x = torch.stack(
        [torch.stack([decoder.codebook[(book @ unit(t)).argmax()] for t in image]) for image in tokens]
    )
    pos = decoder.positions.flatten(1).T

    def attend(layer, q, k, v):
        w, b = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        q, k, v = (one @ m.T + c for one, m, c in zip((q, k, v), w, b, strict=True))
        return (q @ k.transpose(1, 2) / math.sqrt(6)).softmax(
            -1
        ) @ v @ layer.out_proj.weight.T + layer.out_proj.bias

    x = F.layer_norm(x + attend(decoder.own, x + pos, x + pos, x), (6,))
    x = F.layer_norm(x + attend(decoder.cross, x + pos, tokens, tokens), (6,))
    first, _, _, last = decoder.feed
    x = F.layer_norm(x + last(first(x).relu()), (6,))
    y = tokens + x
    hidden = (y @ head.nonlinear[0].weight.T + head.nonlinear[0].bias).clamp(min=0)
    expected = y @ head.linear.weight.T + head.linear.bias
    expected = expected + hidden @ head.nonlinear[2].weight.T + head.nonlinear[2].bias
    torch.testing.assert_close(head(f).flatten(2).transpose(1, 2), expected)


def test_the_decoder_runs_at_other_sizes_with_interpolated_positions():
    decoder = cause.Decoder(torch.randn(7, 6), (2, 3), 0.0)
    head = cause.Head(6, 4, 0.0, decoder).eval()
    f = normal(1, 6, 5, 4).float()
    larger = cause.Decoder(decoder.codebook, (5, 4), 0.0)
    state = decoder.state_dict()
    state["positions"] = F.interpolate(decoder.positions[None], size=(5, 4), mode="bilinear")[0]
    larger.load_state_dict(state)
    tokens = f.flatten(2).transpose(1, 2)
    torch.testing.assert_close(decoder(tokens, (5, 4)), larger(tokens, (5, 4)))
    assert head(f).shape == (1, 4, 5, 4)


# --- The phases, and their switches ---------------------------------------------------------------


class Context(FakeContext):
    """A context with a grid, a live backbone, and the states of what loops keep."""

    grid, side = (6, 6), 48

    def __init__(self, method: object, features: MemoryFeatures, seed: int = 0) -> None:
        super().__init__(method, features, seed)
        self.kept: dict[str, dict[str, object]] = {}
        self.live: list[tuple[int, ...]] = []

    def steps(self, total, /, *, label="", **keep):
        self.kept[label] = keep
        return super().steps(total, label=label)

    def images(self, *, side):
        features = self._features

        class Images:
            def batch(self, indices):
                return torch.full((len(indices), 3, side, side), 51, dtype=torch.uint8)

        assert features is not None
        return Images()

    def backbone(self, images, facets):
        self.live.append(tuple(images.shape))
        assert images.unique().tolist() == pytest.approx([0.2])
        return {"tokens": normal(len(images), 8, images.shape[2] // 8, images.shape[3] // 8).float()}


SMALL = {"clusters": 3, "head": "mlp", "codes": 6, "dim": 5, "projection": 7, "pooling": 2, "batch_size": 3}
SMALL |= {"steps_codebook": 3, "steps": 4, "steps_probe": 4, "checkpoint_every": 2}


TOKENS = normal(5, 8, 6, 6, seed=7).float()


def trained(tokens: Tensor = TOKENS, **params: object) -> tuple[cause.Cause, Context]:
    torch.manual_seed(0)
    method = cause.Cause(**SMALL | params)
    context = Context(method, MemoryFeatures(tokens))
    method.train(None, context)
    return method, context


@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_what_was_trained_predicts_as_its_state_does(head):
    method, context = trained(head=head, standardize=True)
    assert [step for step, _ in context.offers] == [2, 4]
    again = cause.Cause(**SMALL | {"head": head})
    again.load_state_dict(method.state_dict())
    batch = {"tokens": normal(2, 8, 4, 5).float()}
    with torch.no_grad():
        code = method.embed(batch)
        assert torch.equal(code, again.embed(batch))
        logits = again.classify(code)
    cosine = unit(code.flatten(2).transpose(1, 2)) @ unit(again.net.probe).T
    torch.testing.assert_close(logits.flatten(2).transpose(1, 2), cosine)


def test_only_the_probe_learns_in_the_third_phase():
    """The released code's linear probe trains the evaluated head there, with labels."""
    first, _ = trained(steps_probe=1)
    second, _ = trained(steps_probe=4)
    for name, value in first.net.head.state_dict().items():
        assert torch.equal(value, second.net.head.state_dict()[name])
    assert not torch.equal(first.net.probe, second.net.probe)


SWITCHES = {
    "shared_start": (True, False),
    "use_bank": (True, False),
    "codebook_by": ("modularity", "kmeans++"),
    "codebook_side": (0, 64),
    "halve_probe_every": (0, 2),
    "weight_decay": (0.0, 0.5),
    "clip": (1.0, 1e-4),
    "positive": (0.3, 0.9),
    "negative": (0.1, -0.3),
    "momentum": (0.99, 0.5),
    "pooling": (2, 1),
    "standardize": (False, True),
    "head": ("mlp", "tr"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_gives_two_results(name):
    probes = [trained(**{name: value})[0].net.probe for value in SWITCHES[name]]
    assert not torch.equal(*probes)


def test_the_released_teacher_takes_the_first_step_with_the_student():
    for shared in (True, False):
        for steps in (1, 2):
            _, context = trained(steps=steps, shared_start=shared)
            student, teacher = context.kept["contrast"]["student"], context.kept["contrast"]["teacher"]
            same = all(map(torch.equal, student.parameters(), teacher.parameters()))
            assert same == (shared and steps == 1)


def test_the_released_code_loses_a_step_in_which_an_image_has_no_positive_pair():
    """Two images show one thing, each of the others a thing of its own, and one token of each takes part."""
    tokens = normal(5, 8, seed=3).float()
    tokens[1] = tokens[0]
    tokens = tokens[:, :, None, None].expand(-1, -1, 6, 6)
    alone = {"codes": 200, "positive": 0.99999, "pooling": 6, "batch_size": 5, "steps": 1, "use_bank": False}
    heads = {}
    for skipping in (True, False):
        _, context = trained(tokens, skip_without_positives=skipping, **alone)
        heads[skipping] = context.kept["contrast"]["student"].state_dict()
        assert any("contrast" in values for _, values in context.reports) != skipping
    assert not all(torch.equal(heads[True][name], heads[False][name]) for name in heads[True])


def test_the_probes_learning_rate_is_halved_as_a_table_says():
    rates: list[float] = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        trained(halve_probe_every=2, steps_probe=7, lr=0.004)
    assert rates[-7:] == [0.004, 0.004, 0.002, 0.002, 0.001, 0.001, 0.0005]
    assert set(rates[:-7]) == {0.004}


def test_the_codebook_may_be_learned_at_a_size_of_its_own():
    _, context = trained(codebook_side=64)
    assert context.live == [(3, 3, 64, 64)] * 3
    _, context = trained(codebook_side=48)
    assert not context.live


def test_a_codebook_file_takes_the_place_of_the_first_phase(tmp_path):
    path = tmp_path / "modular.npy"
    book = normal(9, 8).float()
    np.save(path, book.numpy())
    method, context = trained(codebook=path, head="tr")
    assert torch.equal(method.net.head.decoder.codebook, book)
    assert list(context.kept) == ["contrast", "probe"]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((9, 7), np.float32), "codes are rows of 8 floats"),
        (np.zeros((0, 8), np.float32), "codes are rows of 8 floats"),
        (np.zeros(8, np.float32), "codes are rows of 8 floats"),
        (np.zeros((9, 8), np.int64), "codes are rows of 8 floats"),
        (np.full((9, 8), np.nan), "not finite"),
    ],
)
def test_a_file_that_is_no_codebook_of_this_backbone_is_refused(tmp_path, array, complaint):
    np.save(tmp_path / "modular.npy", array)
    with pytest.raises(UsageError, match=complaint):
        trained(codebook=tmp_path / "modular.npy")


def test_a_file_that_is_no_array_is_named(tmp_path):
    (tmp_path / "modular.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"modular\.npy cannot be read as an array"):
        trained(codebook=tmp_path / "modular.npy")


# --- Whole runs -----------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process in the middle, as far as the code that it ends can tell."""


@pytest.mark.parametrize(
    ("phase", "step", "codebook_by"),
    [
        ("codebook", 2, "modularity"),
        ("codebook", 2, "kmeans++"),
        ("contrast", 1, "kmeans++"),
        ("contrast", 3, "modularity"),
        ("probe", 3, "modularity"),
    ],
)
def test_a_run_killed_in_any_phase_ends_with_the_record_of_one_that_was_not(
    run, tmp_path, monkeypatch, phase, step, codebook_by
):
    steps = RunContext.steps

    def until(self, total, /, *, label="training", **keep):
        for number in steps(self, total, label=label, **keep):
            if (label, number) == (phase, step):
                raise Killed
            yield number

    cell = {"backbone": "patchstats", "params": SMALL | {"head": "tr", "codebook_by": codebook_by}}
    whole = Run(run.registry, tmp_path / "whole")("cause", **cell)
    again = Run(run.registry, tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "steps", until)
        with pytest.raises(Killed):
            again("cause", snapshot_seconds=0, force="token", **cell)
    outcome = again("cause", snapshot_seconds=0, force="token", **cell)
    assert any(note.startswith("training resumed") for note in outcome.record.notes)
    for name in ("id", "curves", "candidates", "monitor", "selected"):
        assert getattr(outcome.record, name) == getattr(whole.record, name)
    assert read_state(outcome.path, outcome.record) == read_state(whole.path, whole.record)
    arrays = [read_arrays(one.path, one.record) for one in (outcome, whole)]
    assert arrays[0].counts.keys() == arrays[1].counts.keys()
    assert all(np.array_equal(value, arrays[1].counts[name]) for name, value in arrays[0].counts.items())


# --- The planted world ----------------------------------------------------------------------------

WORLD = {"head": "mlp", "codes": 32, "dim": 16, "projection": 32, "pooling": 2, "batch_size": 8}
WORLD |= {"steps_codebook": 60, "steps": 100, "steps_probe": 60, "checkpoint_every": 1000}
WITHOUT = {"the contrast": {"steps": 1}, "a codebook that was learned": {"steps_codebook": 1}}
"""What is taken out, as one step in place of many."""


def test_it_finds_the_planted_classes_and_less_without_its_own_terms(run):
    full = planted.accuracy(run, "cause", **WORLD)
    assert full > planted.kmeans(run) - 5
    assert full > planted.accuracy(run, "random") + 30
    for name, params in WITHOUT.items():
        assert planted.accuracy(run, "cause", **WORLD | params) < full - 5, f"without {name}"


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_both_heads_find_the_planted_classes_on_three_seeds(run, head):
    longer = {"steps_codebook": 150, "steps": 300, "steps_probe": 150}
    found, without = (
        [
            planted.accuracy(run, "cause", seed=seed, **WORLD | longer | {"head": head} | params)
            for seed in (0, 1, 2)
        ]
        for params in ({}, WITHOUT["the contrast"])
    )
    floors = [planted.kmeans(run, seed=seed) for seed in (0, 1, 2)]
    assert np.mean(found) > np.mean(floors) - 5
    assert np.mean(found) > np.mean(without) + 5


@pytest.mark.parametrize(("h", "w"), [(3, 8), (8, 3), (1, 1), (2, 2)])
def test_a_grid_without_a_whole_block_is_refused_in_words(h, w):
    with pytest.raises(UsageError, match=f"{h} × {w} patches has no block of 4 × 4"):
        modularity.pooled(torch.zeros(1, 2, h, w), 4, torch.Generator())
    assert modularity.pooled(torch.zeros(1, 2, h, w), min(h, w), torch.Generator()).shape[1] >= 1
