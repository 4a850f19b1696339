"""The method contract is wide enough: three methods that need very different things run through it.

``cnn-views`` trains a network of its own on native images, ``attention-gradient`` needs gradients
through the backbone, and ``blurred-keys`` reads several facets by index, a table derived from them,
and views of its own; see ``plugins/``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from running import PLUGINS, Run
from safetensors.torch import load

from uss_bench.context import Clock
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, UsageError
from uss_bench.record_files import read_arrays, read_record, read_state
from uss_bench.records import UNMATCHED
from uss_bench.registry import Registry
from uss_bench.runner import Outcome, make_evaluator

Train = Callable[..., Outcome]
FROZEN = ["attention-gradient", "blurred-keys"]
WIDE = ["cnn-views", *FROZEN]


@pytest.fixture
def options(request, random_vit) -> dict:
    return random_vit if request.getfixturevalue("method") in FROZEN else {}


@pytest.fixture
def train(run, method, options) -> Train:
    """Runs the method in question on tiny, with the backbone that it needs."""
    return functools.partial(run, method, **options)


def state_of(outcome: Outcome) -> dict:
    return load(read_state(outcome.path, outcome.record))


@pytest.mark.parametrize("method", WIDE)
class TestEveryMethod:
    def test_trains_predicts_and_is_evaluated_and_recorded(self, train, method):
        outcome = train()
        record = read_record(outcome.path)
        assert (record.status, record.cell.method.name, record.reason) == ("done", method, "")
        assert [candidate.step for candidate in record.candidates] == [10, None]
        assert all(len(curve) == record.cell.method.params["steps"] for curve in record.curves.values())
        assert record.last.raw.clusters_used >= 2, "all pixels in one cluster would prove little"

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
        outcome = train(dataset_options={"labelled": False}, params={"clusters": 3})
        assert outcome.record.last is None
        assert outcome.record.candidates == []
        assert read_arrays(outcome.path, outcome.record).maps["last", "crf"].shape == (4, 96, 96)


@pytest.mark.parametrize("method", FROZEN)
class TestEveryMethodOnFrozenFeatures:
    def test_learns_from_streamed_features_what_it_learns_from_stored_ones(self, train, run):
        stored, streamed = (state_of(train(feature_dtype="float32", budget=b)) for b in (10**9, 0))
        assert not list((run.folder / "streamed").rglob("*.npy"))
        for name, value in stored.items():
            np.testing.assert_allclose(streamed[name], value, rtol=1e-3, atol=1e-4, err_msg=name)

    def test_shares_one_extraction_between_seeds(self, train):
        first, second = train(seed=0).record, train(seed=1).record
        assert first.encoded_items == 6 + 2 * 4, "six training images, four test images and their mirrors"
        assert second.encoded_items == 0

    def test_is_told_when_the_backbone_lacks_a_facet(self, run, method):
        with pytest.raises(UsageError, match=r"patchstats.*has no facet '(cls|keys@10)'"):
            run(method)


def test_a_gradient_reaches_the_attention_at_every_step(run, random_vit):
    steps, sizes = zip(*run("attention-gradient", **random_vit).record.curves["gradient"], strict=True)
    assert steps == tuple(range(1, 13))
    assert min(sizes) > 0


def test_a_derived_table_is_computed_once_and_kept_beside_the_features(run, random_vit):
    tables = []
    for seed in (0, 1):
        run("blurred-keys", seed=seed, **random_vit)
        tables.append([(path, path.stat().st_mtime_ns) for path in run.folder.rglob("derived/*.npz")])
    assert len(tables[0]) == 1
    assert tables[0] == tables[1]
    neighbours = np.load(tables[0][0][0])["neighbours"]
    assert neighbours.shape == (6, 3)
    assert all(row not in neighbours[row] for row in range(6))


def test_a_method_without_facets_needs_no_backbone(run):
    record = run("cnn-views").record
    assert record.cell.backbone.name == "none"
    assert record.encoded_items == 0


def test_clusters_beyond_the_classes_are_errors_under_the_strict_rule(run):
    outcome = run("cnn-views", params={"clusters": 5})
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
