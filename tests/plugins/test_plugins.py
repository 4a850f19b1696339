"""The method contract is wide enough: methods that need very different things run through it.

Each lies in a folder beside this file, in the shape of a published method: ``attention-gradient`` (TransFGU),
``eagle-like``, ``hp-like``, ``picie-like``, ``ppap-like``, ``depthg-like`` and ``cause-like``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import PLUGINS, Run
from safetensors.torch import load

from uss_bench.crf import CrfPool
from uss_bench.data.views import View
from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.evaluating import make_evaluator
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import read_arrays, read_record, read_state
from uss_bench.results.record import UNMATCHED
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

Train = Callable[..., Entry]


class Killed(BaseException):
    """What ends a process in the middle, as far as the code that it ends can tell."""


def counting(taken: list[str], steps: Callable) -> Callable:
    """Return loops that note the label of every step that is taken."""

    def counted(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            taken.append(label)
            yield step

    return counted


FROZEN = ["attention-gradient", "eagle-like", "hp-like", "ppap-like", "depthg-like", "cause-like"]
WIDE = ["picie-like", *FROZEN]
OFFERS = {"attention-gradient": [10], "picie-like": [1, 2, 3], "cause-like": [1, 2, 3]}
"""Steps at which methods offer checkpoints; the others do at 3 and 6."""
LOOPS = {"eagle-like": 6, "hp-like": 6, "picie-like": 12, "ppap-like": 6, "depthg-like": 6, "cause-like": 9}
"""Steps that methods take in all their loops together."""


@pytest.fixture(scope="session")
def depth_maps(tmp_path_factory) -> Path:
    """Write a depth map for every image of tiny: what is striped is far away."""
    folder = tmp_path_factory.mktemp("depth")
    dataset, _ = load_dataset(Registry([PLUGINS]), "tiny", {})
    for split in dataset.splits:
        images, labels = dataset.images(split), dataset.labels(split)
        for index, name in enumerate(images.ids):
            np.save(folder / f"{name}.npy", (5 + 20 * (labels.label(index) == 1)).astype(np.float32))
    return folder


@pytest.fixture
def options(request, random_vit, depth_maps) -> dict:
    method = request.getfixturevalue("method")
    aux = {"aux": {"depth": depth_maps}} if method == "depthg-like" else {}
    return (random_vit if method in FROZEN else {}) | aux


@pytest.fixture
def train(run, method, options) -> Train:
    """Runs the method in question on tiny, with the backbone that it needs."""
    return functools.partial(run, method, **options)


def state_of(outcome: Entry) -> dict:
    return load(read_state(outcome.path, outcome.record))


@pytest.mark.parametrize("method", WIDE)
class TestEveryMethod:
    def test_trains_predicts_and_is_evaluated_and_recorded(self, train, method):
        outcome = train()
        record = read_record(outcome.path)
        assert (record.status, record.cell.method.name, record.reason) == ("done", method, "")
        assert [candidate.step for candidate in record.candidates] == [*OFFERS.get(method, [3, 6]), None]
        assert record.curves

        counts = read_arrays(outcome.path, record).counts
        assert set(counts) == {(c, r) for c in ("last", "selected") for r in ("raw", "crf")}
        for each in counts.values():
            assert each.shape == (4, record.clusters, 2)
            assert each.sum() == record.last.raw.pixels

    def test_predicts_the_same_after_its_state_went_through_a_file(self, train, run, method, options):
        outcome = train()
        setup = run.setup(method, **options)
        fresh = setup.make_method()
        fresh.load_state_dict(state_of(outcome))
        with CrfPool(setup.protocol.crf, workers=1) as pool:
            again = make_evaluator(setup, run.store(setup), pool, Clock()).evaluate(fresh)

        kept = read_arrays(outcome.path, outcome.record)
        np.testing.assert_array_equal(again.raw, kept.counts["last", "raw"])
        np.testing.assert_array_equal(again.crf, kept.counts["last", "crf"])
        np.testing.assert_array_equal(again.raw_maps, kept.maps["last", "raw"])

    def test_learns_the_same_bytes_from_the_same_seed_and_others_from_another(self, train):
        first = train(seed=3).record.state_sha256
        torch.manual_seed(99)  # what a caller did before is of no account
        np.random.seed(99)  # noqa: NPY002
        assert train(seed=3).record.state_sha256 == first
        assert train(seed=4).record.state_sha256 != first

    def test_runs_without_labels_and_leaves_a_record_without_scores(self, train):
        outcome = train(data={"labeled": False}, params={"clusters": 3})
        assert outcome.record.last is None
        assert outcome.record.candidates == []
        assert read_arrays(outcome.path, outcome.record).maps["last", "crf"].shape == (4, 96, 96)


@pytest.mark.parametrize("method", FROZEN)
class TestEveryMethodOnFrozenFeatures:
    def test_learns_from_streamed_features_what_it_learns_from_stored_ones(self, train, run):
        stored, streamed = (state_of(train(feature_dtype="float32", budget=b)) for b in (10**9, 0))
        assert not list((run.folder / "streamed").glob("*/[!d]*/*.npy")), "nothing but what was derived"
        for name, value in stored.items():
            np.testing.assert_allclose(streamed[name], value, rtol=1e-3, atol=1e-4, err_msg=name)

    def test_shares_one_extraction_between_seeds(self, train, method):
        first, second = train(seed=0).record, train(seed=1).record
        passes = 2 if method == "hp-like" else 1  # attention is not stored, and streamed once
        expected = 6 * passes + 2 * 4
        assert first.encoded_items == expected, "six training images, four test images and their mirrors"
        assert second.encoded_items == 0

    def test_is_told_when_the_backbone_lacks_a_facet(self, run, method):
        if method in ("depthg-like", "cause-like"):
            return  # tokens are all that they read
        with pytest.raises(UsageError, match=r"patchstats.*(has no facet '|is a fixed descriptor)"):
            run(method)


def test_a_gradient_reaches_the_attention_at_every_step(run, random_vit):
    steps, sizes = zip(*run("attention-gradient", **random_vit).record.curves["gradient"], strict=True)
    assert steps == tuple(range(1, 13))
    assert min(sizes) > 0


def test_derived_arrays_are_built_once_and_kept_beside_the_features(run, random_vit):
    files = []
    for seed in (0, 1):
        run("eagle-like", seed=seed, **random_vit)
        files.append({path: path.stat().st_mtime_ns for path in run.folder.rglob("derived/*/*.npy")})
    assert len(files[0]) == 1
    assert files[0] == files[1]
    vectors = np.load(next(iter(files[0]))).reshape(6, 3, 6, 6)
    np.testing.assert_allclose(np.square(vectors).sum(axis=(2, 3)), 1, rtol=1e-4)
    run("eagle-like", params={"color": 0.25}, **random_vit)
    assert len(list(run.folder.rglob("derived/*/*.npy"))) == 2, "another parameter is another artifact"


def test_attention_is_kept_in_its_compact_form_alone(run, random_vit):
    run("hp-like", **random_vit)
    kept = {path.parent.name for path in run.folder.rglob("features/*/*/*.npy")}
    assert kept == {"tokens", "image"}
    arrays = {path.name: np.load(path) for path in run.folder.rglob("derived/*/*.npy")}
    near, quantiles = (
        arrays["00000-near.npy"].reshape(6, 9, 6, 6),
        arrays["00000-quantiles.npy"].reshape(6, 2, 6, 6),
    )
    assert np.isinf(near[:, 0, 0]).all(), "nothing lies above the first row"
    assert np.isfinite(near[:, 4]).all()
    assert (quantiles[:, 0] < quantiles[:, 1]).all()


def test_a_trainable_block_starts_as_the_backbones_own_and_leaves_it(run, random_vit):
    drift = [value for _, value in run("ppap-like", **random_vit).record.curves["drift"]]
    assert drift[0] < 1e-2, "the features that it is held against are rounded to float16"
    assert drift[-1] > 0.1


def test_inputs_follow_parameters(run, random_vit):
    outcome = run("eagle-like", params={"blocks": 2}, **random_vit)
    assert load(read_state(outcome.path, outcome.record))["head.weight"].shape[1] == 2 * 192 + 3
    assert {path.parent.name for path in run.folder.rglob("features/*/keys*/*.npy")} == {"keys@11", "keys@12"}


@pytest.mark.parametrize(
    ("backbone", "blocks", "reason"),
    [
        ("patchstats", 3, "no facet 'keys@-3'"),
        ("tinyvit", 5, "Facet 'keys@-5' does not exist: 'tinyvit' has 4 blocks"),
    ],
)
def test_a_block_that_the_backbone_lacks_is_refused_before_any_work(run, backbone, blocks, reason):
    with pytest.raises(UsageError, match=reason):
        run.setup("eagle-like", backbone=backbone, params={"blocks": blocks})
    assert run("eagle-like", backbone="tinyvit").record.status == "done", "whatever the depth"


def test_views_are_aligned_so_that_both_passes_see_the_same_place(run):
    method = run.setup("picie-like").make_method()
    ramp = (torch.arange(64) + 0.5) / 64
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.ones(64, 64)])[None]
    where = [View(scale=0.6, top=0.3, left=0.8, flip=True)]
    first, second = method.pair(torch.nn.Identity(), image, image, where)
    crop, whole = (one[0, :2] for one in (first, second))
    assert (crop - whole).abs().max() < 1 / 32, "within a patch"
    back, expected = first[1, :2], second[1, :2]
    seen = second[1, 2] > 0
    assert 0.3 < seen.float().mean() < 0.4
    assert ((back - expected).abs() * seen).max() < 1.5 / 32


@pytest.mark.parametrize("method", LOOPS)
@pytest.mark.parametrize("share", [0.0, 0.4, 0.7, 0.95])
def test_a_run_killed_in_any_of_its_loops_ends_with_the_same_record(run, method, options, monkeypatch, share):
    whole = run(method, **options)
    kill_at, seen = int(share * LOOPS[method]), []
    steps = RunContext._steps

    def counted(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            if not (label == "epochs" and method == "picie-like"):
                if len(seen) == kill_at:
                    raise Killed
                seen.append(step)
            yield step

    again = Run(run.registry, run.folder / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", counted)
        with pytest.raises(Killed):
            again(method, snapshot_seconds=0, force="token", **options)
    taken: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", counting(taken, steps))
        outcome = again(method, snapshot_seconds=0, force="token", **options)
    assert outcome.record.curves == whole.record.curves
    assert outcome.record.candidates == whole.record.candidates
    assert read_state(outcome.path, outcome.record) == read_state(whole.path, whole.record)
    inner = [label for label in taken if label != "epochs"]
    assert len(inner) == LOOPS[method] - kill_at, "it went on, and did not begin again"


def test_a_codebook_from_a_file_takes_the_place_of_its_phase(run, random_vit, tmp_path):
    path = tmp_path / "codebook.npy"
    np.save(path, np.random.default_rng(0).normal(size=(6, 192)).astype(np.float32))
    outcome = run("cause-like", params={"codebook": str(path)}, **random_vit)
    assert set(outcome.record.curves) == {"head", "probe"}
    state = load(read_state(outcome.path, outcome.record))
    np.testing.assert_array_equal(state["codebook.weight"], np.load(path))


def test_a_method_without_facets_needs_no_backbone(run):
    record = run("picie-like").record
    assert record.cell.backbone.name == "none"
    assert record.encoded_items == 0


def test_clusters_beyond_the_classes_are_errors_under_the_strict_rule(run):
    outcome = run("picie-like", params={"clusters": 5})
    row, counts = outcome.record.last.raw, read_arrays(outcome.path, outcome.record).counts["last", "raw"]
    assert outcome.record.protocol.extra_clusters == "strict"
    assert len(row.class_of_cluster) == 5
    assert sorted(row.class_of_cluster) == [UNMATCHED] * 3 + [0, 1]
    total = counts.sum(axis=0)
    correct = sum(total[k, c] for k, c in enumerate(row.class_of_cluster) if c != UNMATCHED)
    assert row.accuracy == pytest.approx(100 * correct / total.sum(), abs=1e-3)


def test_a_method_may_read_an_auxiliary_channel_and_nothing_else(run):
    record = run("infrared").record
    assert record.last.raw.accuracy > 70, "dark stripes are darker than anything that is smooth"


def test_an_auxiliary_channel_that_the_images_lack_is_named_with_those_they_have(tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    for path in (PLUGINS / "infrared").glob("*.*"):
        (folder / path.name).write_text(path.read_text().replace("aux:infrared", "aux:depth"))
    with pytest.raises(DataError, match=r"no extra channel 'depth' \(they have: infrared\)"):
        Run(Registry([folder, PLUGINS / "tiny"]), tmp_path)("infrared")


def test_the_recorded_state_is_the_file_beside_the_record(run):
    outcome = run("infrared")
    state = outcome.path.with_suffix(".safetensors").read_bytes()
    assert hashlib.sha256(state).hexdigest() == outcome.record.state_sha256
