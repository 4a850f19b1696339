"""Scores of one run under other classes: merged counts against labels that are merged before counting."""

from __future__ import annotations

import numpy as np
import pytest
from paired_files import voc

import uss_bench
from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.scoring import count, score
from uss_bench.evaluation.taxonomies import merge_counts
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import TaxonomySpec, read_spec

TAXONOMIES = [
    (spec, taxonomy)
    for spec in (Registry().dataset(name)[0] for name in Registry().names("datasets"))
    for taxonomy in spec.taxonomies
]


@pytest.mark.parametrize(("spec", "taxonomy"), TAXONOMIES, ids=lambda one: one.name)
def test_merged_counts_are_the_counts_of_merged_labels(spec, taxonomy):
    rng = np.random.default_rng(0)
    names = [row.name for row in spec.classes]
    target = {source: place for place, (_, all) in enumerate(taxonomy.classes.items()) for source in all}
    table = np.array([target.get(name, -1) for name in names] + [-1])
    label = rng.integers(-1, len(names), (40, 50))
    clusters = rng.integers(0, len(names) + 4, label.shape)
    merged = merge_counts(count(clusters, label, len(names) + 4, len(names)), names, taxonomy)
    again = count(clusters, table[label], len(names) + 4, len(taxonomy.classes))
    np.testing.assert_array_equal(merged, again)
    assert merged.shape == (len(names) + 4, len(taxonomy.classes)), "K is that of the run"


def test_cityscapes_has_19_and_7_classes_of_the_same_pixels():
    spec, _ = Registry().dataset("cityscapes27")
    fine, coarse = spec.taxonomies
    assert (len(fine.classes), len(coarse.classes)) == (19, 7)
    merged = [source for sources in coarse.classes.values() for source in sources]
    assert sorted(merged) == sorted(fine.classes)
    ids = [row.values[0] for row in spec.classes if row.name in fine.classes]
    assert ids == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_what_is_no_coarsening_is_refused(tmp_path):
    spec, _ = Registry().dataset("cityscapes27")
    fine, coarse = spec.taxonomies
    with pytest.raises(UsageError, match="do not tell apart, such as 'road'"):
        merge_counts(np.ones((7, 7), int), list(coarse.classes), fine)
    text = (
        'kind = "dataset"\nname = "a"\ntitle = "A"\nsummary = "a"\nentry = "a:A"\n'
        '[[classes]]\nname = "x"\ncolor = [0, 0, 0]\n[[taxonomies]]\nname = "b"\n[taxonomies.classes]\n'
    )
    for classes, words in (('p = ["x"]\nq = ["x"]', "splits a class"), ('p = ["y"]', "merges 'y'")):
        (tmp_path / "spec.toml").write_text(text + classes)
        with pytest.raises(DataError, match=words):
            read_spec(tmp_path / "spec.toml")


def test_records_are_scored_under_other_classes_with_k_of_the_run(run, command, tmp_path):
    voc(tmp_path / "data")
    data = {"root": str(tmp_path / "data"), "partial": True}
    entry = run("dino", "voc21", backbone="patchstats", data=data, params={"steps": 2})
    run("random", "toy3", backbone="patchstats", limit=2)
    frame = uss_bench.records(run.results, taxonomy="voc20")
    assert set(frame.dataset) == {"voc21"}, "records of other datasets are left out"
    assert set(frame.clusters) == {21}
    assert set(frame.classes) == {20}
    counts = entry.arrays.counts["last", "raw"].sum(axis=0)[:, 1:]
    for rule in ("strict", "merge"):
        row = frame[
            (frame.extra_clusters == rule) & (frame.refinement == "raw") & (frame.checkpoint == "last")
        ]
        assert row.miou.item() == pytest.approx(100 * score(counts, extra_clusters=rule).miou, abs=1e-3)
    per_class = uss_bench.records(run.results, taxonomy="voc20", per_class=True)
    assert "background" not in set(per_class["class"])
    assert len(per_class) == 20 * len(frame)
    said = command("show", "--out", run.results, "--taxonomy", "voc20", "--columns", "clusters,classes,miou")
    assert (said.code, "21" in said.out, "20" in said.out) == (0, True, True)
    assert command("show", "--out", run.results, "--taxonomy", "voc12").code == 2


def test_a_taxonomy_needs_a_source_for_each_class():
    with pytest.raises(UsageError):
        merge_counts(np.ones((2, 2), int), ["a", "b"], TaxonomySpec("t", {"c": ["d"]}))
