"""Measures of features: what each number is, what is shared, and where results lie."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from paired_files import voc
from running import PLUGINS, Run

import uss_bench
from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.scoring import score
from uss_bench.experiment import backbone_features
from uss_bench.experiment.backbone_features import measure_backbones
from uss_bench.experiment.cells import CellSpec
from uss_bench.results.collection import read_entries
from uss_bench.results.feature_counts import counts_path, read_counts
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


@pytest.mark.parametrize("upsample", ["code", "logits", "nearest"])
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
        raw = evaluator.evaluate(stub).raw
        np.testing.assert_array_equal([counts.image(index) for index in range(len(raw))], raw)
        np.testing.assert_array_equal(counts.sum(), raw.sum(axis=0))


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


def test_a_command_that_was_stopped_goes_on_with_what_is_missing(registry, tmp_path, monkeypatch):
    settings = FeatureSettings(measures=("kmeans",), kmeans_steps=2)
    whole = measured(registry, tmp_path / "whole", settings, seeds=[0, 1])
    measure = backbone_features._measured

    def stopped(measurement, store, seed, command):
        if seed == 1:
            raise KeyboardInterrupt
        return measure(measurement, store, seed, command)

    monkeypatch.setattr(backbone_features, "_measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        measured(registry, tmp_path / "out", settings, seeds=[0, 1])
    names = sorted(path.name for path in (tmp_path / "out/tiny").iterdir())
    assert len(names) == 2, "a record and its counts, and nothing half written"
    (tmp_path / "out/tiny" / names[1]).unlink()  # as where it was stopped between the two files
    monkeypatch.setattr(backbone_features, "_measured", measure)
    again = measured(registry, tmp_path / "out", settings, seeds=[0, 1])
    assert [one.rows for one in again] == [one.rows for one in whole]
    assert [one.id for one in again] == [one.id for one in whole]


def test_force_measures_again_and_replaces_the_record(registry, tmp_path):
    settings = FeatureSettings(measures=("kmeans",), kmeans_steps=2)
    (first,) = measured(registry, tmp_path, settings)
    (again,) = measured(registry, tmp_path, settings, force=True)
    assert (again.id, again.rows) == (first.id, first.rows)
    (path,) = tmp_path.glob("tiny/*.json")
    assert path.read_bytes().count(again.created.encode()) == 1
    (counts,) = read_counts(path, 1)
    assert counts.sum().sum() == again.rows[0].scores.pixels
    counts_path(path).write_bytes(b"no counts")
    with pytest.raises(DataError, match="Measure again with --force"):
        read_counts(path, 1)


def test_one_image_is_measured_and_impossible_clusters_are_left_out_or_refused(registry, tmp_path):
    asked = CellSpec(method="dino", dataset="toy3", protocol=TINY.protocol, training={"side": 32}, limit=1)
    quick = FeatureSettings(kmeans_steps=2, probe_steps=2, low_shot=(8,))
    (record,) = measured(registry, tmp_path, quick, asked=asked)
    assert [row.name for row in record.rows if row.measure == "over-clustering"] == [
        "over-clustering K=3",
        "over-clustering K=6",
    ]
    assert record.left_out == [
        "Over-clustering with K = 100, 300, 500: 1 image of 16 patches in all.",
        "1/8 of 1 labeled images is fewer than 4.",
    ]
    with pytest.raises(UsageError, match=r"1 image of 16 patches in all, and over-clustering .* K = 17"):
        measured(registry, tmp_path, FeatureSettings(clusters=(4, 17)), asked=asked)


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_label_that_cannot_be_read_is_named_before_anything_is_measured(command, tmp_path, split):
    tree = voc(tmp_path / "data")
    damaged = tree.files["2007_000042" if split == "val" else "2007_000039"]
    damaged.write_bytes(damaged.read_bytes()[:60])
    words = ["patchstats", "--dataset", "voc21", "--root", tmp_path / "data", "--data", "partial=true"]
    said = command("features", *words, "--measure", "retrieval", "--out", tmp_path / "out")
    assert (said.code, str(damaged) in said.err) == (1, True)
    assert "k-means" not in said.err
    assert not (tmp_path / "out").exists()


def test_other_classes_are_scored_from_the_counts_and_k_is_said(command, tmp_path):
    voc(tmp_path / "data")
    words = ["features", "patchstats", "--dataset", "voc21", "--root", tmp_path / "data"]
    words += ["--data", "partial=true", "--protocol", "stego320@2[eval_side=32]", "--training", "side=32"]
    words += ["--measure", "kmeans", "--measure", "retrieval", "--kmeans-steps", 2, "--out", tmp_path / "out"]
    said = command(*words, "--taxonomy", "voc20")
    assert said.code == 0, said.err
    assert "Under voc20, 20 classes. K is that of the run" in said.out
    assert "kmeans K=21" in said.out
    (path,) = (tmp_path / "out/voc21").glob("*.json")
    record = json.loads(path.read_bytes())
    said = command(*words, "--taxonomy", "voc20", "--format", "csv")
    lines = {line["measure"]: line for line in csv.DictReader(io.StringIO(said.out))}
    for counts, row, line in zip(read_counts(path, 2), record["rows"], lines.values(), strict=True):
        dense = counts.sum()[:, 1:]
        classes = None if row["matching"] else [-1, *range(20)]
        assert float(line["miou"]) == pytest.approx(
            100 * score(dense, class_of_cluster=classes).miou, abs=1e-3
        )
        assert (line["taxonomy"], line["classes"]) == ("voc20", "20")
    said = command(*words, "--taxonomy", "cocothings12")
    assert (said.code, "merges classes of 'cocostuff27'" in said.err) == (2, True)
    counts_path(path).unlink()
    said = command(*words, "--taxonomy", "voc20")
    assert (said.code, "--force" in said.err) == (2, True)


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
    assert record.cost is not None
    assert record.cost.parameters is None, "no module was found that could be counted"
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


def test_the_five_lines_of_the_documentation_measure_any_module(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
    (lines,) = [
        one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "module_backbone" in one
    ]
    assert len([line for line in lines.splitlines() if line]) <= 5
    network = torch.nn.Conv2d(3, 8, 16, stride=16)
    monkeypatch.setattr(torch.hub, "load", lambda *_: network)
    small = {"limit": 4, "protocol": "stego320@2[eval_side=96]", "training": {"side": 96}}
    quick = functools.partial(uss_bench.measure_features, **small, kmeans_steps=2, bank_size=64, out=tmp_path)
    monkeypatch.setattr(uss_bench, "measure_features", quick)
    names: dict[str, object] = {}
    exec(lines, names)
    assert 0 < float(capsys.readouterr().out.splitlines()[-1]) < 100
    first, second = names["records"]
    assert (first.cell.backbone.name, second.cell.backbone.name) == ("mine", "tinyvit")
    assert first.cost.parameters == 8 * (3 * 16 * 16 + 1), "the network was found in the function"
    assert [row.uses_labels for row in first.rows] == [False, True]
