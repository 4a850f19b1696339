"""Measures of features: what each number is, what is shared, and where results lie."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from running import PLUGINS, Run

import uss_bench
from uss_bench.errors import UsageError
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.scoring import score
from uss_bench.experiment.backbone_features import measure_backbones
from uss_bench.experiment.cells import CellSpec
from uss_bench.results.collection import read_entries
from uss_bench.results.feature_record import FeatureSettings

TINY = CellSpec(
    method="dino", dataset="tiny", protocol="stego320@2[eval_side=32,crf=none]", training={"side": 32}
)
QUICK = FeatureSettings(clusters=(2, 8), kmeans_steps=5, probe_steps=40, probe_batch_size=4)


def measured(registry, out, settings=QUICK, backbones=("patchstats",), asked=TINY, **options):
    found = measure_backbones(
        asked, backbones, settings, registry, device=torch.device("cpu"), out=out, **options
    )
    return [record for _, record in found]


def test_k_means_with_as_many_clusters_as_classes_is_the_run_of_the_baseline(registry, tmp_path):
    (record,) = measured(registry, tmp_path, seeds=[3])
    rows = {row.name: row for row in record.rows}
    run = Run(registry, tmp_path)
    for name, method in {"kmeans K=2": "dino", "pca-48 K=2": "pca", "position-free K=2": "debias"}.items():
        params = {"steps": 5} | ({"dim": 48} if method == "pca" else {})
        entry = run(
            method,
            seed=3,
            backbone="patchstats",
            protocol=TINY.protocol,
            training=TINY.training,
            params=params,
        )
        assert rows[name].scores == entry.record.last.raw, name
        if method == "dino":  # many-to-one, of the same clusters
            counts = entry.arrays.counts["last", "raw"].sum(axis=0)
            share = counts.max(axis=1).sum() / counts.sum()
            assert rows["over-clustering K=2"].scores.accuracy == pytest.approx(100 * share, abs=1e-3)
    assert rows["over-clustering K=8"].scores.accuracy >= rows["over-clustering K=2"].scores.accuracy - 1
    assert rows["retrieval"].scores.accuracy > 80, "stripes and flat patches are apart"
    assert rows["probe"].scores.accuracy > 80
    assert record.labels_used == ["retrieval", "probe"]
    assert {row.measure for row in record.rows if row.uses_labels} == {"retrieval", "probe"}


@pytest.mark.parametrize("upsample", ["code", "logits"])
def test_counts_of_several_states_in_one_pass_are_those_of_each(registry, tmp_path, upsample):
    run = Run(registry, tmp_path)
    setup = run.setup(
        "constant", protocol=f"stego320@2[eval_side=32,crf=none,upsample={upsample}]", training={"side": 32}
    )

    class Stub:
        def __init__(self, seed: int, clusters: int) -> None:
            self.weight = torch.randn(clusters, 3, generator=torch.Generator().manual_seed(seed))

        def embed(self, batch):
            return torch.nn.functional.avg_pool2d(batch["image"], 8) - 0.5

        def classify(self, code):
            return torch.einsum("bdhw,kd->bkhw", code, self.weight)

    evaluator = Evaluator(
        method_name="stub",
        inputs=["image"],
        items=setup.evaluation_items(),
        features=None,
        labels=setup.test_labels,
        n_classes=2,
        protocol=setup.protocol,
        alpha=1.0,
        pool=None,
        device=torch.device("cpu"),
    )
    stubs = [Stub(0, 2), Stub(1, 7)]
    for stub, counts in zip(stubs, evaluator.pixel_counts(stubs), strict=True):
        np.testing.assert_array_equal(counts, evaluator.evaluate(stub).raw.sum(axis=0))


def test_many_to_one_is_the_best_class_of_each_cluster():
    counts = np.random.default_rng(0).integers(0, 50, (9, 4))
    found = score(counts, matching="many-to-one")
    confusion = np.zeros((4, 4))
    for row in counts:
        confusion[row.argmax()] += row
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    np.testing.assert_allclose(found.miou, np.mean(np.diag(confusion)[union > 0] / union[union > 0]))
    assert found.accuracy == counts.max(axis=1).sum() / counts.sum()


def test_shares_of_the_labeled_images_are_drawn_anew_and_too_small_ones_left_out(registry, tmp_path):
    settings = FeatureSettings(
        measures=("retrieval",), low_shot=(2, 8), draws=3, kmeans_steps=1, probe_steps=1
    )
    asked = CellSpec(method="dino", dataset="toy3", protocol=TINY.protocol, training={"side": 32}, limit=12)
    (record,) = measured(registry, tmp_path, settings, asked=asked)
    assert [(row.share, row.draw, row.train_images) for row in record.rows] == [
        *[(1, 0, 12)],
        *[(2, draw, 6) for draw in range(3)],
    ]
    assert len({row.scores.miou for row in record.rows}) == 4
    assert record.left_out == ["1/8 of 12 labeled images is fewer than 4."]


def test_what_was_measured_is_not_measured_again_and_is_no_record_of_a_run(registry, tmp_path, monkeypatch):
    settings = FeatureSettings(measures=("kmeans",), kmeans_steps=2)
    first = measured(registry, tmp_path, settings, seeds=[0, 1])
    assert len({record.id for record in first}) == 2
    assert [record.encoded_items for record in first][1] == 0, "one extraction serves all seeds"
    monkeypatch.setattr("uss_bench.experiment.backbone_features._measured", None)  # calling it would fail
    assert measured(registry, tmp_path, settings, seeds=[0, 1]) == first
    assert read_entries([tmp_path]) == ([], [])


def test_blocks_are_measured_from_one_extraction(registry, tmp_path, random_vit):
    asked = CellSpec(
        method="dino",
        dataset="tiny",
        protocol=TINY.protocol,
        training=TINY.training,
        weights=str(random_vit["weights"]),
        backbone_name=random_vit["backbone_name"],
    )
    settings = FeatureSettings(measures=("kmeans", "pca"), kmeans_steps=2)
    found = measured(registry, tmp_path, settings, [random_vit["backbone"]], asked=asked, blocks=[1, -1])
    assert [record.cell.facet for record in found] == ["tokens@1", "tokens@12"]
    assert [record.encoded_items for record in found] == [0, 0], "both were extracted together before"
    assert found[0].rows[0].scores != found[1].rows[0].scores


def test_the_command_prints_tables_and_csv(command, tmp_path):
    words = ["features", "patchstats", "--dataset", "tiny", "--protocol", TINY.protocol]
    words += ["--training", "side=32", "--kmeans-steps", 2, "--probe-steps", 2, "--clusters", "2,5"]
    words += ["--out", tmp_path, "--plugin", PLUGINS, "--quiet"]
    said = command(*words)
    assert said.code == 0, said.err
    upper, lower = said.out.split("learns from training labels")
    assert "over-clustering K=5" in upper
    assert "retrieval" not in upper
    assert "retrieval" in lower
    assert "kmeans" not in lower
    said = command(*words, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["uses_labels"] for row in rows] == ["False"] * 5 + ["True"] * 2
    said = command(*words, "--format", "json")
    assert json.loads(said.out)[0]["cell"]["backbone"]["name"] == "patchstats"


def test_a_network_of_ones_own_is_measured_from_python(tmp_path):
    def features(images):
        return torch.nn.functional.avg_pool2d(images, 8)

    mine = uss_bench.module_backbone(features, patch=8, name="means")
    (record,) = uss_bench.measure_features(
        mine,
        "tiny",
        measures=["kmeans", "retrieval"],
        protocol=TINY.protocol,
        training=TINY.training,
        kmeans_steps=2,
        out=tmp_path,
        plugins=[PLUGINS],
    )
    assert record.cell.backbone.name == "means"
    assert [row.name for row in record.rows] == ["kmeans K=2", "retrieval"]
    with pytest.raises(UsageError, match="kmeans_steps"):
        uss_bench.measure_features(mine, "tiny", kmeans_steps=0, plugins=[PLUGINS])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["patchstats", "--blocks", "1"], "has no blocks"),
        (["patchstats", "--clusters", "a"], "takes numbers with commas"),
        (["patchstats", "--low-shot", "1"], "takes numbers from 2 on"),
        (["patchstats", "tinyvit", "--weights", "x"], "--weights belong to one backbone"),
        (["patchstats", "--protocol", "stego320@2[match_on=train]"], "Leave match_on=train out"),
    ],
)
def test_wrong_usage(command, tmp_path, words, expected):
    said = command("features", *words, "--dataset", "tiny", "--plugin", PLUGINS, "--out", tmp_path)
    assert said.code == 2
    assert expected in said.err
