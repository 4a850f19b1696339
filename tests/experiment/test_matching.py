"""Runs whose clusters are matched on the training split, and runs without a CRF."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import SMALL, Run

from uss_bench.audit.record_checks import check_record
from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import match, score
from uss_bench.results.collection import Entry, gather, read_entries
from uss_bench.results.files import read_record
from uss_bench.statistics.resampling import resample

ON_TRAIN = "stego320@2[eval_side=96,match_on=train]"
DINO: dict[str, Any] = {"backbone": "patchstats", "params": {"steps": 40}}


@pytest.fixture
def turned(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs on a dataset whose two classes change their names between its splits."""
    tiny = run.registry.find("datasets", "tiny").load()
    labels = tiny.labels

    def turn(self: Any, split: str) -> Any:
        found = labels(self, split)
        found.swapped = split == "train"
        return found

    monkeypatch.setattr(tiny, "labels", turn)
    return run


def counts_on_train(run: Run, entry: Entry, **options: Any) -> np.ndarray:
    """Count the training split by hand: the cluster of each patch, at each of its pixels, unflipped."""
    setup = run.setup("dino", protocol=ON_TRAIN, **options)
    state = entry.path.with_suffix(".safetensors").read_bytes()
    method = setup.make_method(state, torch.device("cpu"))
    labels, items = setup.dataset.labels("train"), setup.evaluation_items(setup.train_images)
    counts = np.zeros((entry.record.clusters, len(setup.dataset.classes)), dtype=np.int64)
    for index in range(len(setup.train_images)):
        image = torch.from_numpy(items[index].copy()).permute(2, 0, 1)[None] / 255
        patches = method.classify(method.embed(setup.backbone(image, ["tokens"]))).argmax(dim=1)[0].numpy()
        wide = Image.fromarray(labels.label(index).astype(np.int32)).resize(
            (120, 96), Image.Resampling.NEAREST
        )
        for (i, j), true in np.ndenumerate(np.asarray(wide)[:, 12:108]):
            if true >= 0:
                counts[patches[i // setup.backbone.patch, j // setup.backbone.patch], true] += 1
    return counts


def test_clusters_are_named_by_the_training_split_alone(turned: Run) -> None:
    on_test = turned("dino", **DINO, protocol=SMALL)
    on_train = turned("dino", **DINO, protocol=ON_TRAIN)
    raw, arrays = on_train.record.last.raw, on_train.arrays
    np.testing.assert_array_equal(
        arrays.counts["last", "raw"], on_test.arrays.counts["last", "raw"], "the predictions are the same"
    )
    assert on_test.record.last.raw.accuracy > 80
    assert raw.accuracy < 20, "what the clusters are called on the training split is wrong on the other"
    expected = match(counts_on_train(turned, on_train, **DINO))
    assert raw.class_of_cluster == expected.tolist() == on_train.record.last.crf.class_of_cluster
    for row, refinement in ((raw, "raw"), (on_train.record.last.crf, "crf")):
        literal = score(arrays.counts["last", refinement], class_of_cluster=expected)
        assert row.accuracy == round(100 * literal.accuracy, 4)
        assert row.miou == round(100 * literal.miou, 4)


def test_the_labels_that_name_the_clusters_are_part_of_the_identity(run: Run, monkeypatch) -> None:
    setup, other = run.setup("dino", protocol=ON_TRAIN), run.setup("dino", protocol=SMALL)
    before, unlike = setup.cell(0), other.cell(0)
    assert before.assets == {"training labels": setup.train_labels().fingerprint()}
    assert unlike.assets == {}
    kind = type(setup.dataset.labels("train"))
    fingerprint = kind.fingerprint
    monkeypatch.setattr(kind, "fingerprint", lambda self: fingerprint(self) + " of others" * (len(self) == 6))
    assert run.setup("dino", protocol=SMALL).cell(0).id == unlike.id, "test labels are as they were"
    assert run.setup("dino", protocol=ON_TRAIN).cell(0).id != before.id


def test_without_labels_of_the_training_split_there_is_nothing_to_match_on(run: Run) -> None:
    with pytest.raises(UsageError, match="Labels of the training split are needed"):
        run("dino", backbone="patchstats", params={"clusters": 2}, protocol=ON_TRAIN, data={"labeled": False})


def test_such_a_record_is_read_audited_and_resampled(turned: Run) -> None:
    entry = turned("dino", **DINO, protocol=ON_TRAIN)
    (read,), _ = read_entries([turned.results])
    assert read_record(entry.path).last == entry.record.last
    assert [one for one in check_record(read, lambda cell: None) if one.weight == "wrong"] == []
    (configuration,) = gather([read])
    (counts,) = configuration.counts("crf")
    assert counts.shape == (4, 3, 2), "rows are the classes, and what has none"
    assert counts.sum() == entry.arrays.counts["last", "crf"].sum()
    drawn = resample(counts, configuration.records[0].protocol, resamples=20)
    assert np.nanmax(drawn.accuracy) < 40, "resampling does not match anew"


def test_a_run_without_a_crf_has_unrefined_scores_only(run: Run) -> None:
    entry = run("dino", **DINO, protocol="stego320@2[eval_side=96,crf=none]")
    assert entry.record.last.crf is None
    assert entry.record.crf_engine == ""
    assert {refinement for _, refinement in entry.arrays.counts} == {"raw"}
    assert {refinement for _, refinement in entry.arrays.maps} == {"raw"}
    refined = run("dino", **DINO, protocol=SMALL)
    assert entry.record.last.raw == refined.record.last.raw
    assert refined.record.last.crf is not None
