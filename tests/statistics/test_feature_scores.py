"""Intervals of measured features are those of runs, whatever holds the counts."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from uss_bench.evaluation.scoring import score, score_row
from uss_bench.protocol import get_protocol
from uss_bench.results.feature_record import FeatureRow
from uss_bench.results.sparse_counts import SparseCounts
from uss_bench.statistics.feature_scores import feature_sampling
from uss_bench.statistics.intervals import image_interval, interval_of


def counts_of(seed, clusters=6, classes=3, images=40):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 90, (images, clusters, classes)) * (rng.random((images, clusters, classes)) < 0.6)


def row_of(matching):
    scores = score_row(score(counts_of(0)))
    return FeatureRow(measure="kmeans", uses_labels=False, matching=matching, train_images=1, scores=scores)


@pytest.mark.parametrize("matching", ["hungarian", "iou", "many-to-one"])
def test_the_interval_of_clusters_is_that_of_a_run_with_the_same_counts(matching):
    seeds = [counts_of(1), counts_of(2)]
    protocol = replace(get_protocol("stego320@2"), matching=matching)
    rows = [(row_of(matching), SparseCounts.of(one)) for one in seeds]
    sampling = feature_sampling(rows, "stego320@2", resamples=200)
    for metric in ("accuracy", "miou"):
        expected = image_interval(seeds, protocol, metric, resamples=200)
        found = interval_of(sampling, metric)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert found.note == expected.note
    miou = [100 * score(one, matching=matching).miou for one in seeds]
    np.testing.assert_allclose(100 * sampling.scores[:, 1], miou)


def test_predicted_classes_are_never_matched():
    counts = counts_of(3, clusters=3)
    counts[:, [0, 1]] = counts[:, [1, 0]] + 50  # a matching would name them otherwise
    sampling = feature_sampling([(row_of(None), SparseCounts.of(counts))], "stego320@2", resamples=50)
    literal = score(counts, class_of_cluster=range(3))
    assert sampling.percent("miou") == pytest.approx(100 * literal.miou)
    assert sampling.percent("accuracy") == pytest.approx(100 * literal.accuracy)


def test_other_classes_merge_labels_and_predicted_classes_and_leave_clusters_alone():
    table = np.array([1, -1, 0, 1])
    counts = counts_of(4, clusters=4, classes=4)
    merged = np.stack([counts[..., table == one].sum(axis=-1) for one in range(2)], axis=-1)
    sparse = SparseCounts.of(counts)
    clusters = feature_sampling([(row_of("hungarian"), sparse)], "stego320@2", table, resamples=20)
    assert clusters.percent("miou") == pytest.approx(100 * score(merged).miou)
    predicted = feature_sampling([(row_of(None), sparse)], "stego320@2", table, resamples=20)
    literal = score(merged, class_of_cluster=table)  # a dropped class is an error, as UNMATCHED is
    assert predicted.percent("miou") == pytest.approx(100 * literal.miou)
    assert predicted.percent("accuracy") == pytest.approx(100 * literal.accuracy)
