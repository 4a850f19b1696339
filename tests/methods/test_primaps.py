"""PriMaPs-EM: masks, majority, focal loss and average against literal forms, its base, and what it learns."""

from __future__ import annotations

import math
import statistics
import sys
from types import SimpleNamespace

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from fakes import FakeContext, MemoryFeatures, method_module
from safetensors.torch import load
from torch import Tensor

from uss_bench.errors import RunError, UsageError
from uss_bench.features import artifacts
from uss_bench.results.files import new_rerun_token, read_arrays, read_state
from uss_bench.training.context import RunContext

primaps = method_module("primaps")
masks = sys.modules[primaps.mask_proposals.__module__]
student_views = sys.modules[primaps.StudentViews.__module__]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Masks ---------------------------------------------------------------------------------------


def literal_proposals(features: Tensor, threshold: float, sign: str) -> list[Tensor]:
    """The released loop, patch by patch, with a whole decomposition of what is left for every mask."""
    h, w = features.shape[1:]
    unit = {(y, x): features[:, y, x] / features[:, y, x].norm() for y in range(h) for x in range(w)}
    left = set(unit)
    found: list[Tensor] = []
    memory: list[set] = []
    while 1 - len(left) / (h * w) < 0.95:
        rows = torch.stack([features[:, y, x] for y, x in sorted(left)])
        v = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)[2][0]
        products = [float(unit[at] @ v) for at in sorted(left)]
        if (max(products) >= -min(products)) != (sign == "largest"):
            v = -v
        along = {at: float(unit[at] @ v) if at in left else 0.0 for at in sorted(unit)}
        anchor = unit[max(along, key=lambda at: along[at])]
        cosine = {at: float(unit[at] @ anchor) if at in left else 0.0 for at in unit}
        largest = max(cosine.values())
        mask = torch.zeros(h, w, dtype=torch.float64)
        for at, value in cosine.items():
            if value >= threshold * largest and largest > 0:
                mask[at] = value / largest
        found.append(mask)
        left = {at for at in left if mask[at] <= 0}
        memory = [left, *memory]
        if len(memory) > 3 and memory[0] == memory[1] == memory[2]:
            break
    return found


@pytest.mark.parametrize("sign", ["largest", "smallest"])
@pytest.mark.parametrize("seed", range(4))
def test_proposals_are_those_of_the_literal_loop(seed, sign):
    features = normal(6, 4, 5, seed=seed) + 0.8 * normal(6, 1, 1, seed=50 + seed)
    found = masks.proposals(features, 0.4, sign)
    expected = literal_proposals(features, 0.4, sign)
    assert len(found) == len(expected) > 1
    for mask, literal in zip(found, expected, strict=True):
        torch.testing.assert_close(mask, literal, rtol=1e-9, atol=1e-9)


def test_a_map_of_two_blocks_gives_two_masks():
    f = 0.01 * normal(4, 4, 6)
    f[0, :, :3] += 1
    f[1, :, 3:] += 1
    found = masks.proposals(f, 0.4)
    assert len(found) == 2
    shown = {tuple((mask > 0).any(dim=0).tolist()) for mask in found}
    assert shown == {(True,) * 3 + (False,) * 3, (False,) * 3 + (True,) * 3}
    assert all(float(mask.max()) == pytest.approx(1) for mask in found)


def test_equal_patches_are_one_mask():
    assert (masks.proposals(torch.ones(3, 4, 4), 0.4) > 0).all()


def covariance(rows: Tensor) -> Tensor:
    return torch.cov(rows.T, correction=0)


def test_the_direction_has_the_declared_sign_whatever_the_library_returns(monkeypatch):
    rows = normal(20, 5, seed=2)
    unit = F.normalize(rows, dim=1)
    expected = masks.principal_direction(covariance(rows), unit)
    assert (unit @ expected).abs().max() == (unit @ expected).max()
    _, _, vectors = torch.linalg.svd(rows - rows.mean(dim=0))
    assert abs(float(expected @ vectors[0])) == pytest.approx(1)
    library = masks.eigsh
    monkeypatch.setattr(masks, "eigsh", lambda *a, **k: tuple(-one for one in library(*a, **k)))
    torch.testing.assert_close(masks.principal_direction(covariance(rows), unit), expected)


def test_the_other_sign_gives_other_masks():
    rows = normal(30, 5, seed=3)
    unit = F.normalize(rows, dim=1)
    v, other = (masks.principal_direction(covariance(rows), unit, one) for one in ("largest", "smallest"))
    torch.testing.assert_close(v, -other)
    features = normal(5, 5, 6, seed=3)
    one, two = (masks.proposals(features, 0.4, sign) for sign in ("largest", "smallest"))
    assert one.shape != two.shape or not torch.equal(one, two)


def test_the_median_is_that_of_reflected_windows():
    values = normal(2, 4, 5)
    found = masks.median3(values)
    for m in range(2):
        padded = np.pad(values[m].numpy(), 1, mode="reflect")
        for y in range(4):
            for x in range(5):
                window = padded[y : y + 3, x : x + 3].ravel().tolist()
                assert float(found[m, y, x]) == pytest.approx(statistics.median(window))


def test_the_background_is_the_mean_less_the_masks_and_enters_the_crf_first(monkeypatch):
    given = []
    monkeypatch.setattr(masks, "refine", lambda image, q: given.append(q) or q)
    soft = torch.zeros(2, 4, 4, dtype=torch.float64)
    soft[0, :, :3], soft[1, 2:, 2:] = 1.0, 0.06
    found = masks.refined(soft, np.zeros((4, 4, 3), np.uint8))
    smooth = (masks.median3(soft) * 10).clamp(0, 1)
    inside = [float(one) for one in smooth.ravel() if one]
    for y in range(4):
        for x in range(4):
            level = sum(inside) / len(inside) - sum(float(smooth[m, y, x]) for m in range(2))
            stack = [min(1.0, max(0.0, level)), *smooth[:, y, x].tolist()]
            weights = [math.exp(one) for one in stack]
            for m in range(3):
                assert given[0][m, y, x] == pytest.approx(math.log(weights[m] / sum(weights)))
            best = max(range(3), key=lambda m: weights[m])
            assert found[y, x] == (best or masks.IGNORED)


def textures(side: int = 12) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Three textures: labels of patches, their features, and an image of 4 pixels a patch."""
    label = np.zeros((side, side), dtype=int)
    label[:, side // 3 : 2 * side // 3], label[:, 2 * side // 3 :] = 1, 2
    directions = torch.eye(5)[:3]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5, side, side, generator=generator)
    f = directions[torch.from_numpy(label)].permute(2, 0, 1) + 0.05 * noise
    colors = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=np.uint8)
    return label, f, colors[label].repeat(4, axis=0).repeat(4, axis=1)


def test_masks_follow_three_textures():
    label, f, image = textures()
    item = {"tokens": f, "image": torch.from_numpy(image).permute(2, 0, 1) / 255}
    found = masks.mask_proposals(item, threshold=0.4, sign="largest", base=None)["masks"]
    assert found.shape == (48, 48)
    truth = label.repeat(4, axis=0).repeat(4, axis=1)
    for texture in range(3):
        own = truth == texture
        values, counts = np.unique(found[own], return_counts=True)
        mask = found == values[counts.argmax()]
        assert (own & mask).sum() / (own | mask).sum() > 0.9


def test_masks_of_a_killed_build_are_not_built_again_and_are_the_same_on_many_cores(run, monkeypatch):
    """Items are built in threads, and written in parts as they are finished."""
    few = {"steps_init": 1, "steps": 1, "batch_size": 2, "view": "none", "flip": False}
    request = {"backbone": "patchstats", "params": few}
    monkeypatch.setattr(artifacts, "ITEMS_PER_PART", 2)
    monkeypatch.setattr("uss_bench.training.derived.whole_cores", lambda: 3)
    built: list[int] = []
    refined = masks.refined

    def until(count: int):
        def counted(soft, image):
            built.append(1)
            if len(built) > count:
                raise RuntimeError("killed")
            return refined(soft, image)

        monkeypatch.setattr(masks, "refined", counted)

    until(5)
    with pytest.raises(Exception, match="killed"):
        run("primaps", **request)
    (folder,) = run.folder.glob("features/**/derived/*")
    kept = {path: path.read_bytes() for path in folder.glob("*.npy")}
    assert kept, "what was finished is there"
    items = len(run.setup("primaps", **request).training_items())
    built.clear()
    until(10**6)
    run("primaps", **request)
    assert len(built) == items - 2 * len(kept)
    assert all(path.read_bytes() == content for path, content in kept.items())
    whole = {path.name: path.read_bytes() for path in folder.glob("*.npy")}
    for path in folder.iterdir():
        path.unlink()
    monkeypatch.setattr("uss_bench.training.derived.whole_cores", lambda: 1)
    run("primaps", **request)
    assert {path.name: path.read_bytes() for path in folder.glob("*.npy")} == whole


# --- Expectation and maximization ----------------------------------------------------------------


def test_each_mask_gets_its_most_frequent_class():
    own = torch.tensor([[[1, 1, 1, 255], [2, 2, 255, 2]], [[1, 1, 3, 3], [3, 255, 1, 1]]], dtype=torch.uint8)
    classes = torch.tensor([[[0, 2, 2, 1], [1, 0, 2, 1]], [[2, 2, 0, 0], [1, 1, 0, 2]]])
    expected = torch.tensor([[[2, 2, 2, 255], [1, 1, 255, 1]], [[2, 2, 0, 0], [0, 255, 2, 2]]])
    assert torch.equal(primaps.majority(classes, own, 3), expected)


def literal_loss(
    f: Tensor,
    g: Tensor,
    own: Tensor,
    teacher: Tensor,
    v: Tensor,
    lengths: Tensor,
    focal: float,
    counted: bool,
) -> Tensor:
    """The released loss, pixel by pixel, on features that are enlarged."""
    f, g = (F.interpolate(one, own.shape[1:], mode="bilinear", align_corners=False) for one in (f, g))
    weights = lengths * v / v.norm(dim=1, keepdim=True)
    b, _, h, w = f.shape
    pixels = [(i, y, x) for i in range(b) for y in range(h) for x in range(w)]
    classes = {at: int((teacher @ f[at[0], :, at[1], at[2]]).argmax()) for at in pixels}
    votes: dict[tuple[int, int], list[int]] = {}
    for at in pixels:
        votes.setdefault((at[0], int(own[at])), []).append(classes[at])
    target = {at: statistics.mode(sorted(votes[at[0], int(own[at])])) for at in pixels}
    logits = {at: weights @ g[at[0], :, at[1], at[2]] for at in pixels}
    shares = torch.stack([one.detach().softmax(0) for one in logits.values()]).mean(dim=0)
    terms = [
        -((1 - shares[target[at]]) ** focal) * logits[at].log_softmax(0)[target[at]]
        for at in pixels
        if own[at] != 255
    ]
    return torch.stack(terms).sum() / (len(pixels) if counted else len(terms))


@pytest.mark.parametrize("focal", [0.0, 2.0])
@pytest.mark.parametrize("count_ignored", [True, False])
def test_the_loss_and_its_gradient_are_those_of_the_released_focal_cross_entropy(focal, count_ignored):
    method = primaps.PriMaPs(clusters=3, focal=focal, count_ignored=count_ignored)
    method.student, method.teacher = (primaps.Prototypes(normal(3, 4, seed=seed)).double() for seed in (1, 2))
    method.teacher.requires_grad_(False)
    with torch.no_grad():
        method.student.lengths.copy_(torch.tensor([[0.7], [1.2], [2.0]]))
    f, g = normal(2, 4, 2, 3), normal(2, 4, 2, 3, seed=9)
    own = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(4)).byte()
    own[own == 0] = 255
    found = method.loss(f, g, own)
    v, lengths = (one.detach().clone().requires_grad_() for one in method.student.parameters())
    teacher = F.normalize(method.teacher.directions, dim=1)
    expected = literal_loss(f, g, own, teacher, v, lengths, focal, count_ignored)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = torch.autograd.grad(found, list(method.student.parameters()))
    literal = torch.autograd.grad(expected, [v, lengths])
    for one, other in zip(slopes, literal, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_loss_holds_no_enlarged_features():
    """768 channels at 64 × 64 pixels would be 3 million numbers; the features are 49 thousand."""
    method = primaps.PriMaPs(clusters=3)
    method.student, method.teacher = (primaps.Prototypes(normal(3, 768, seed=s).float()) for s in (1, 2))
    sizes = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x)
    f = normal(1, 768, 8, 8).float()
    with keep:
        method.loss(f, f, torch.ones(1, 64, 64, dtype=torch.uint8))
    assert max(sizes) <= 768 * 64


def test_the_average_warms_up_as_the_released_one():
    method = primaps.PriMaPs(clusters=3, ema_decay=0.8)
    assert [method.decay(n) for n in range(1, 8)] == pytest.approx([0, 0, 2 / 3, 3 / 4, 0.8, 0.8, 0.8])
    method.student, method.teacher = (primaps.Prototypes(normal(3, 4, seed=seed)) for seed in (1, 2))
    before = method.teacher.directions.clone()
    for step in range(1, 11):
        method.follow(step)
    assert torch.equal(method.teacher.directions, before), "the framework counts steps from 0"
    method.follow(11)
    assert torch.equal(method.teacher.directions, method.student.directions)


def test_prototypes_start_from_principal_directions_of_declared_sign():
    tokens = normal(6, 5, 3, 4).float() * torch.tensor([5.0, 1, 3, 2, 0.5])[:, None, None] + 1
    method = primaps.PriMaPs(clusters=3, batch_size=2)
    ctx = FakeContext(method, MemoryFeatures(tokens))
    ctx.info = SimpleNamespace(dim=5)
    found = method.principal_directions(ctx.features(), ctx)
    rows = tokens.permute(0, 2, 3, 1).reshape(-1, 5)
    expected = torch.linalg.svd(rows - rows.mean(dim=0))[2][:3]
    torch.testing.assert_close((found * expected).sum(dim=1).abs(), torch.ones(3), rtol=1e-4, atol=1e-4)
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()
    with pytest.raises(UsageError, match="6 clusters cannot start from principal directions of 5 channels"):
        primaps.PriMaPs(clusters=6).principal_directions(ctx.features(), ctx)


# --- What teacher and student see ------------------------------------------------------------------


class Seeing(FakeContext):
    """A context whose backbone returns pixels, and whose stored features say that they are stored."""

    info = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))

    def __init__(self, images: Tensor) -> None:
        super().__init__(None, MemoryFeatures(images[:, :1] / 255 + 10))
        self._pictures = images

    def images(self) -> SimpleNamespace:
        return SimpleNamespace(batch=lambda items: self._pictures[torch.as_tensor(items)])

    def backbone(self, images: Tensor, facets: list[str]) -> dict[str, Tensor]:
        return dict.fromkeys(facets, images[:, :1])


def pictures(count: int = 64) -> Tensor:
    return (torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).byte()


def test_flipped_images_go_through_the_backbone_and_their_masks_lie_over_them():
    ctx = Seeing(pictures())
    views = primaps.StudentViews(ctx, flip=True, space="none")
    own = ctx._pictures[:, 0]
    seen, over, shown = views(3, range(64), ctx.features(), own)
    flipped = (seen["tokens"] < 5)[:, 0].all(dim=(1, 2))
    assert 16 < int(flipped.sum()) < 48
    assert shown is seen
    for item in range(64):
        expected = own[item].flip(-1) if flipped[item] else own[item]
        assert torch.equal(over[item], expected)
        level = expected / 255 if flipped[item] else expected / 255 + 10
        torch.testing.assert_close(seen["tokens"][item, 0], level)
    still, same, _ = primaps.StudentViews(ctx, flip=False, space="none")(3, range(64), ctx.features(), own)
    assert torch.equal(same, own)
    assert (still["tokens"] > 5).all()


def test_views_are_blurred_and_then_jittered_or_gray_as_often_as_released():
    views = primaps.StudentViews(Seeing(pictures()), flip=False, space="rgb")
    drawn = [one for step in range(40) for one in views.draw(step, range(64))]
    names = [tuple(name for name, _ in one.operations) for one in drawn]
    assert all(name[0] == "blur" for name in names)
    assert {one.kernel for one in drawn} == {21}
    jittered = sum("brightness" in name for name in names) / len(names)
    gray = sum("gray" in name for name in names) / len(names)
    assert jittered == pytest.approx(0.15, abs=0.03)
    assert gray == pytest.approx(0.05, abs=0.02)
    assert not [name for name in names if "gray" in name and "hue" in name]


def test_jitter_on_normalized_pixels_loses_what_is_below_the_mean():
    images = pictures(2) / 255
    jitter = [student_views.View(operations=(("brightness", 1.0),))] * 2
    info = Seeing.info
    rgb, normalized = (student_views.student_view(images, jitter, info, one) for one in ("rgb", "normalized"))
    torch.testing.assert_close(rgb, images)
    mean, std = (torch.tensor(one)[:, None, None] for one in (info.mean, info.std))
    torch.testing.assert_close(normalized, ((images - mean) / std).clamp(0, 1) * std + mean)
    assert not torch.allclose(normalized, rgb)


# --- A base ----------------------------------------------------------------------------------------

SMALL = {"backbone": "patchstats"}
FEW = {"steps": 3, "batch_size": 2, "checkpoint_every": 2}
STILL = {"view": "none", "flip": False}


@pytest.fixture
def upon_stego(run):
    base = {"method": "stego", "params": {"steps": 3, "batch_size": 3, "dim": 8}}
    first = run("stego", params=base["params"], **SMALL)

    def boosted(**params):
        return run("primaps", params={"base": base, **FEW, **params}, **SMALL)

    return first, boosted


def test_on_top_of_a_run_prototypes_start_as_its_own_and_its_code_is_kept(run, upon_stego):
    first, boosted = upon_stego
    outcome = boosted(ema_every=100)  # the teacher stays where it began
    state, base = (load(read_state(one.path, one.record)) for one in (outcome, first))
    torch.testing.assert_close(state["directions"], F.normalize(base["centroids"], dim=1))
    assert state["directions"].shape == (2, 8)
    for name, value in base.items():
        assert torch.equal(state[f"base.{name}"], value)
    assert set(outcome.record.curves) == {"maximization"}, "there is no k-means"
    # a teacher that never moved predicts as the base does, as products and cosines order alike
    one, other = (read_arrays(entry.path, entry.record).counts for entry in (outcome, first))
    raw = [key for key in one if "raw" in str(key)]
    assert raw
    assert all(np.array_equal(one[key], other[key]) for key in raw)


def test_masks_are_those_of_the_code_of_the_base(run, upon_stego):
    first, _ = upon_stego
    setup = run.setup("stego", params=first.record.cell.method.params, **SMALL)
    stego = setup.make_method(read_state(first.path, first.record), torch.device("cpu"))
    item = {"tokens": normal(48, 6, 6).float(), "image": torch.rand(3, 24, 24)}
    base = SimpleNamespace(inputs=("tokens",), load=lambda device: stego)
    with torch.no_grad():  # as where arrays are derived
        found = masks.mask_proposals(item, threshold=0.4, sign="largest", base=base)["masks"]
        code = stego.embed({"tokens": item["tokens"][None]})[0]
    own = masks.mask_proposals(item | {"tokens": code}, threshold=0.4, sign="largest", base=None)["masks"]
    assert np.array_equal(found, own)
    plain = masks.mask_proposals(item, threshold=0.4, sign="largest", base=None)["masks"]
    assert not np.array_equal(found, plain)


def test_a_base_with_other_clusters_or_another_classifier_is_refused(run, upon_stego):
    _, boosted = upon_stego
    with pytest.raises(RunError, match="the base has 2 clusters, and this method 3"):
        boosted(clusters=3)
    strange = SimpleNamespace(
        state_dict=lambda: {"any": torch.zeros(1)}, classify=lambda code: torch.cat([code[:, :2] ** 2], dim=1)
    )
    with pytest.raises(ValueError, match="does not classify its code by prototypes"):
        primaps.directions_of(strange, 4, 2)


def test_a_base_keeps_its_dropout_where_that_is_asked_for(upon_stego):
    _, boosted = upon_stego
    states = [
        load(read_state(one.path, one.record))
        for one in (boosted(base_dropout=drop, ema_every=1, **STILL) for drop in (True, False, True))
    ]
    dropped, plain, again = (one["directions"] for one in states)
    assert not torch.equal(dropped, plain)
    assert torch.equal(dropped, again)


def test_a_base_without_a_run_is_named(run):
    with pytest.raises(UsageError, match="a run of 'stego' with seed 0"):
        run("primaps", params={"base": "stego", **FEW}, **SMALL)


# --- What it learns --------------------------------------------------------------------------------

WORLD = {"steps_init": 60, "steps": 120, "batch_size": 8, "checkpoint_every": 1000, **STILL}


def test_masks_join_what_a_stripe_divides(run):
    """A stripe splits every class in two, as often as not; the patches of one mask have both halves."""
    full = planted.accuracy(run, "primaps", "object", **WORLD)
    alone = planted.accuracy(run, "primaps", "object", **WORLD, use_masks=False)
    assert alone < full - 5
    assert full >= planted.kmeans(run, "object") - 5
    assert full > planted.accuracy(run, "random", "object") + 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("variant", ["all", "object"])
def test_the_world_at_length(run, variant, seed):
    full, alone = (
        planted.accuracy(
            run, "primaps", variant, seed=seed, **WORLD | {"use_masks": on, "view": "rgb", "flip": True}
        )
        for on in (True, False)
    )
    assert full >= planted.kmeans(run, variant, seed=seed) - 5
    assert alone < full - 5 or variant != "object"


def contents(entry):
    counts = {key: value.tolist() for key, value in read_arrays(entry.path, entry.record).counts.items()}
    return entry.record.curves, entry.record.candidates, counts, read_state(entry.path, entry.record)


def test_killed_in_either_phase_it_ends_with_the_record_of_a_run_that_was_not(run, monkeypatch):
    request = {"params": {**FEW, "steps_init": 3, "steps": 5, "ema_every": 2}, "snapshot_seconds": 0, **SMALL}
    whole = contents(run("primaps", **request))
    usual = RunContext.steps

    class Killed(BaseException):
        pass

    for wanted in (("prototypes", 2), ("training", 1), ("training", 4)):

        def until(self, total, /, *, label="training", wanted=wanted, **keep):
            for number in usual(self, total, label=label, **keep):
                if (label, number) == wanted:
                    torch.rand(3)  # what a step may do before it is killed
                    raise Killed
                yield number

        token = new_rerun_token()
        with monkeypatch.context() as patch:
            patch.setattr(RunContext, "steps", until)
            with pytest.raises(Killed):
                run("primaps", force=token, **request)
        again = run("primaps", force=token, **request)
        assert any("resumed" in one for one in again.record.notes)
        assert contents(again) == whole


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_the_median_of_a_single_row_or_column_repeats_it(h, w):
    values = torch.randn(2, h, w, generator=torch.Generator().manual_seed(h))

    def place(i: int, size: int) -> int:
        return 0 if size == 1 else size - 1 - abs(size - 1 - abs(i))

    for one, found in zip(values, masks.median3(values), strict=True):
        for i in range(h):
            for j in range(w):
                around = [
                    float(one[place(i + down, h), place(j + right, w)])
                    for down in (-1, 0, 1)
                    for right in (-1, 0, 1)
                ]
                assert float(found[i, j]) == statistics.median(around)
