"""Scoring: counts, matching and scores against loops, exhaustive search and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from uss_bench.evaluation.scoring import (
    confusion_matrix,
    count,
    match,
    match_all,
    match_many,
    per_image_oracle,
    score,
    score_under,
)
from uss_bench.protocol import get_protocol
from uss_bench.results.arrays import as_classes
from uss_bench.results.record import UNMATCHED

many = settings(max_examples=150, deadline=None)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
count_matrices = shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 1000)))


def random_counts(clusters: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10_000, (clusters, classes))


def one_to_one_assignments(counts: np.ndarray) -> list[tuple[int, dict[int, int]]]:
    """All ways to give min(K, C) clusters a class of their own, with the pixels that come out right."""
    clusters, classes = counts.shape
    small, large = sorted((clusters, classes))
    found = []
    for chosen in itertools.permutations(range(large), small):
        pairs = list(enumerate(chosen)) if clusters <= classes else [(k, c) for c, k in enumerate(chosen)]
        found.append((sum(int(counts[pair]) for pair in pairs), dict(pairs)))
    return found


def naive(counts: np.ndarray, class_of: dict[int, int]) -> dict[str, object]:
    """Scores by counting pixel after pixel, or rather cell after cell, in Python floats."""
    clusters, classes = counts.shape
    cells = [(class_of.get(k), c, float(counts[k, c])) for k in range(clusters) for c in range(classes)]
    ratios: dict[str, list[float]] = {"iou": [], "precision": [], "recall": []}
    for c in range(classes):
        hit = sum(n for p, t, n in cells if p == c and t == c)
        false = sum(n for p, t, n in cells if p == c and t != c)
        missed = sum(n for p, t, n in cells if p != c and t == c)
        for name, whole in (
            ("iou", hit + false + missed),
            ("precision", hit + false),
            ("recall", hit + missed),
        ):
            ratios[name].append(hit / whole if whole else float("nan"))
    total = sum(n for _, _, n in cells)
    present = [iou for iou in ratios["iou"] if iou == iou]
    return {
        **ratios,
        "accuracy": sum(n for p, t, n in cells if p == t) / total if total else float("nan"),
        "miou": sum(present) / len(present) if present else float("nan"),
    }


# --- Counting ------------------------------------------------------------------------------------


def random_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 7, (17, 23)).astype(np.uint8), rng.integers(-1, 5, (17, 23)).astype(np.int16)


def test_count_is_a_loop_over_pixels_that_leaves_ignored_ones_out():
    prediction, label = random_maps()
    expected = np.zeros((7, 5), dtype=np.int64)
    for k, c in zip(prediction.flat, label.flat, strict=True):
        if c >= 0:
            expected[k, c] += 1
    result = count(prediction, label, 7, 5)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, expected)


def test_count_is_scikit_learns_confusion_matrix_transposed():
    prediction, label = random_maps(1)
    valid = label >= 0
    expected = sklearn.metrics.confusion_matrix(label[valid], prediction[valid], labels=range(7)).T[:, :5]
    np.testing.assert_array_equal(count(prediction, label, 7, 5), expected)


def test_an_image_that_is_ignored_throughout_counts_nothing():
    assert count(np.zeros((3, 3), int), np.full((3, 3), -1), 2, 4).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([[0, 2]], [[0, 0]], "prediction 2 is out of range for 2 clusters"),
        ([[0, -1]], [[0, 0]], "prediction -1 is out of range for 2 clusters"),
        ([[0, 1]], [[3, 0]], "label 3 is out of range for 3 classes"),
        ([[0, 1]], [[0], [0]], "differ in shape"),
    ],
)
def test_what_is_out_of_range_is_named(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        count(np.array(prediction), np.array(label), 2, 3)


# --- Matching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clusters", "classes"), [(6, 6), (4, 6), (6, 4), (1, 5), (5, 1), (3, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_hungarian_is_the_best_of_all_one_to_one_assignments(clusters, classes, seed):
    counts = random_counts(clusters, classes, seed)
    best, assignment = max(one_to_one_assignments(counts), key=lambda one: one[0])
    expected = [assignment.get(k, UNMATCHED) for k in range(clusters)]
    assert match(counts).tolist() == expected
    assert best == sum(counts[k, c] for k, c in enumerate(expected) if c != UNMATCHED)


@settings(max_examples=60, deadline=None)
@given(
    counts=hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
        elements=st.integers(0, 4),  # few values, so that many are equal
    ),
    matching=st.sampled_from(["hungarian", "iou", "many-to-one"]),
    extra=st.sampled_from(["strict", "drop", "merge"]),
)
def test_many_sets_are_matched_as_each_by_itself(counts, matching, extra):
    expected = np.stack([match_all(one, matching, extra) for one in counts])
    np.testing.assert_array_equal(match_many(counts, matching, extra), expected)


def test_a_set_whose_matching_is_plain_is_not_solved(monkeypatch):
    counts = np.array([[[9, 1, 0], [2, 3, 8], [0, 7, 1]], [[9, 1, 0], [8, 3, 2], [0, 7, 1]]])
    expected = [match(one) for one in counts]
    solved = []
    monkeypatch.setattr(
        "uss_bench.evaluation.scoring.linear_sum_assignment",
        lambda worth, **options: solved.append(worth) or linear_sum_assignment(worth, **options),
    )
    np.testing.assert_array_equal(match_many(counts, "hungarian", "strict"), expected)
    assert len(solved) == 1
    np.testing.assert_array_equal(solved[0], counts[1])


def test_many_to_one_gives_each_used_cluster_its_most_frequent_class():
    counts = np.array([[5, 9, 1], [0, 0, 0], [2, 8, 3], [4, 0, 6]])
    assert match(counts, "many-to-one").tolist() == [1, UNMATCHED, 1, 2]
    scores = score(counts, matching="many-to-one")
    assert scores.accuracy == pytest.approx((9 + 8 + 6) / 38)
    assert scores.iou.tolist() == pytest.approx([0, 17 / 28, 6 / 14])


@pytest.mark.parametrize(("clusters", "classes"), [(5, 5), (3, 5), (5, 3), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_matching_by_iou_is_the_best_of_all_assignments_by_the_sum_of_the_pairs_iou(clusters, classes, seed):
    counts = random_counts(clusters, classes, seed) ** 2  # far from alike, so that the two rules differ

    def worth(assignment: dict[int, int]) -> float:
        unions = (counts[k].sum() + counts[:, c].sum() - counts[k, c] for k, c in assignment.items())
        return sum(counts[k, c] / union for (k, c), union in zip(assignment.items(), unions, strict=True))

    best = max((one for _, one in one_to_one_assignments(counts)), key=worth)
    assert match(counts, "iou").tolist() == [best.get(k, UNMATCHED) for k in range(clusters)]


def test_matching_by_iou_is_not_matching_by_pixels():
    counts = np.array([[5, 9], [1, 4]])  # 9 + 1 pixels against 5 + 4; IoU 5/15 + 4/14 against 9/18 + 1/10
    assert (match(counts).tolist(), match(counts, "iou").tolist()) == ([1, 0], [0, 1])


def test_iou_takes_pairs_of_no_pixels_last():
    counts = np.array([[0, 0, 0], [0, 7, 0], [0, 0, 0]])
    assert match(counts, "iou")[1] == 1
    assert match(np.zeros((2, 2), dtype=np.int64), "iou").tolist() == match(np.zeros((2, 2), int)).tolist()


@many
@given(count_matrices)
def test_the_class_of_best_precision_is_the_most_frequent_one(counts):
    for row, found in zip(counts, match(counts, "precision"), strict=True):
        if row.sum() == 0:
            assert found == UNMATCHED
        else:
            assert row[found] / row.sum() == max(row / row.sum())
    assert match(counts, "precision").tolist() == match(counts, "many-to-one").tolist()


@many
@given(count_matrices, st.data())
def test_a_matching_made_elsewhere_is_kept(counts, data):
    classes = data.draw(
        st.lists(st.integers(-1, counts.shape[1] - 1), min_size=len(counts), max_size=len(counts))
    )
    scores = score(counts, class_of_cluster=classes)
    expected = naive(counts, {k: c for k, c in enumerate(classes) if c != UNMATCHED})
    assert scores.class_of_cluster.tolist() == classes
    for name in ("iou", "precision", "recall", "accuracy", "miou"):
        np.testing.assert_allclose(getattr(scores, name), expected[name])


def test_under_a_protocol_that_matches_elsewhere_counts_of_clusters_say_nothing():
    protocol = get_protocol("stego320@2[match_on=train,extra_clusters=drop]")
    counts = np.array([[[9, 1], [2, 8], [5, 0]]])
    fixed = score_under(counts, protocol, [1, 0, 0])
    assert fixed.accuracy == 3 / 20, "what was dropped is not counted"
    assert score_under(counts, get_protocol("stego320@2"), [1, 0, 0]).accuracy == 17 / 25, "nor asked for"
    with pytest.raises(ValueError, match="do not say which class a cluster is"):
        score_under(np.ones((4, 2), int), protocol)
    rows = as_classes(counts, [1, 0, 0], drop_extra=True)
    again = score_under(rows, protocol)
    assert (again.accuracy, again.iou.tolist()) == (fixed.accuracy, fixed.iou.tolist())


def test_confusion_rows_are_classes_and_the_last_row_is_unmatched():
    counts = np.array([[1, 2], [3, 4], [5, 6]])
    expected = [[5, 6], [1, 2], [3, 4]]
    assert confusion_matrix(counts, np.array([1, UNMATCHED, 0])).tolist() == expected


# --- Scores --------------------------------------------------------------------------------------


@many
@given(count_matrices)
def test_scores_are_those_of_a_naive_reading(counts):
    scores = score(counts)
    class_of = {k: c for k, c in enumerate(scores.class_of_cluster.tolist()) if c != UNMATCHED}
    for name, expected in naive(counts, class_of).items():
        np.testing.assert_allclose(getattr(scores, name), expected, rtol=1e-12, err_msg=name)
    assert scores.pixels == counts.sum()
    assert scores.clusters_used == sum(row.any() for row in counts)
    assert scores.classes_present == sum(column.any() for column in counts.T)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, 4000)
    prediction = np.where(rng.random(4000) < 0.6, (label + 2) % 5, rng.integers(0, 5, 4000))
    scores = score(count(prediction, label, 5, 5))
    matched = scores.class_of_cluster[prediction]
    assert matched[prediction == 2].tolist() == [0] * (prediction == 2).sum()
    assert scores.accuracy == pytest.approx(sklearn.metrics.accuracy_score(label, matched))
    assert scores.miou == pytest.approx(sklearn.metrics.jaccard_score(label, matched, average="macro"))
    np.testing.assert_allclose(scores.iou, sklearn.metrics.jaccard_score(label, matched, average=None))
    np.testing.assert_allclose(
        scores.precision, sklearn.metrics.precision_score(label, matched, average=None)
    )
    np.testing.assert_allclose(scores.recall, sklearn.metrics.recall_score(label, matched, average=None))


@many
@given(counts=count_matrices, rule=st.sampled_from(["strict", "merge"]), data=st.data())
def test_the_order_of_clusters_means_nothing(counts, rule, data):
    totals = sorted(total for total, _ in one_to_one_assignments(counts))
    assume(len(totals) == 1 or totals[-1] > totals[-2])  # a tie has several right answers
    order = data.draw(st.permutations(range(len(counts))))
    before, after = score(counts, extra_clusters=rule), score(counts[order], extra_clusters=rule)
    np.testing.assert_allclose([after.accuracy, after.miou], [before.accuracy, before.miou])
    np.testing.assert_allclose(after.iou, before.iou)


def test_counts_per_image_are_summed_before_matching():
    counts = np.random.default_rng(5).integers(0, 100, (9, 4, 4))
    whole, summed = score(counts), score(counts.sum(axis=0))
    assert whole.class_of_cluster.tolist() == summed.class_of_cluster.tolist()
    assert (whole.accuracy, whole.miou) == (summed.accuracy, summed.miou)
    assert whole.accuracy < np.mean([score(one).accuracy for one in counts])  # matched image by image


@pytest.mark.parametrize("counts", [np.zeros(3), np.zeros((1, 1, 1, 1)), np.array([[1, -1]])])
def test_what_is_no_count_matrix_is_refused(counts):
    with pytest.raises(ValueError, match="non-negative"):
        score(counts)


# --- Rules ---------------------------------------------------------------------------------------

# Two classes of 100 pixels; three clusters, each of one class only: 0 and 2 are halves of class 0.
OVER_CLUSTERED = np.array([[50, 0], [0, 100], [50, 0]])


def test_the_literatures_mask_scores_over_clustering_as_perfect_and_strict_does_not():
    dropped = score(OVER_CLUSTERED, extra_clusters="drop")
    strict = score(OVER_CLUSTERED, extra_clusters="strict")
    assert (dropped.accuracy, dropped.miou, dropped.pixels) == (1.0, 1.0, 150)
    assert (strict.accuracy, strict.miou, strict.pixels) == (0.75, 0.75, 200)
    assert dropped.class_of_cluster.tolist() == [0, 1, UNMATCHED]


def test_the_mask_hides_pixels_that_were_assigned_at_random():
    counts = np.array([[50, 0], [0, 50], [50, 50]])
    assert score(counts, extra_clusters="drop").miou == 1.0
    assert score(counts, extra_clusters="strict").miou == 0.5
    assert score(counts, extra_clusters="merge").accuracy == 0.75


@pytest.mark.parametrize("extra", [1, 5])
def test_unmasking_the_literatures_metric_averages_one_more_row(extra):
    """As docs/protocols.md states: unmatched clusters become a row of IoU 0, and the mean has C + 1 terms."""
    classes = 27
    counts = random_counts(classes + extra, classes)
    rows, columns = linear_sum_assignment(counts.T, maximize=True)
    matched = counts[columns][np.argsort(rows)]
    unmatched = np.delete(counts, columns, axis=0).sum(axis=0, keepdims=True)
    table = np.concatenate([matched, unmatched])  # predicted × true, and a column of zeros for the extra row
    table = np.concatenate([table, np.zeros((classes + 1, 1))], axis=1)
    hits = np.diag(table)
    iou = hits / (table.sum(axis=0) + table.sum(axis=1) - hits)
    assert iou[-1] == 0
    assert iou.mean() == pytest.approx(classes / (classes + 1) * score(counts).miou)


def test_merging_gives_the_clusters_left_over_their_most_frequent_class():
    counts = np.array([[60, 0], [0, 70], [30, 10], [5, 30], [0, 0]])
    merged = score(counts, extra_clusters="merge")
    assert merged.class_of_cluster.tolist() == [0, 1, 0, 1, UNMATCHED]
    assert merged.accuracy == pytest.approx((60 + 70 + 30 + 30) / 205)
    assert score(counts).accuracy == pytest.approx((60 + 70) / 205)


def test_drop_masks_by_index_before_matching():
    counts = OVER_CLUSTERED[[2, 0, 1]]
    scores = score(counts, extra_clusters="drop")  # cluster 2 alone holds class 1, and vanishes
    assert scores.pixels == 100
    assert scores.classes_present == 1
    assert scores.accuracy == 0.5


@pytest.mark.parametrize("rule", ["drop", "merge"])
@pytest.mark.parametrize("clusters", [3, 4])
def test_without_extra_clusters_all_rules_agree(rule, clusters):
    counts = random_counts(clusters, 4)
    strict, other = score(counts), score(counts, extra_clusters=rule)
    assert (strict.accuracy, strict.miou) == (other.accuracy, other.miou)


def test_a_class_that_is_predicted_and_never_true_has_iou_zero():
    scores = score(np.array([[8, 2, 0], [0, 9, 0], [1, 1, 0]]))
    assert scores.class_of_cluster.tolist() == [0, 1, 2]
    assert scores.iou.tolist() == pytest.approx([8 / 11, 9 / 12, 0.0])
    assert scores.miou == pytest.approx((8 / 11 + 9 / 12) / 3)
    assert np.isnan(scores.recall[2])


def test_a_class_that_is_neither_true_nor_predicted_is_skipped_or_zero():
    counts = np.array([[8, 2, 0], [0, 9, 0], [0, 0, 0]])
    skipped, zero = score(counts), score(counts, absent_classes="zero")
    assert np.isnan(skipped.iou[2])
    assert skipped.miou == pytest.approx((8 / 10 + 9 / 11) / 2)
    assert zero.miou == pytest.approx((8 / 10 + 9 / 11) / 3)


def test_no_pixels_have_no_score():
    scores = score(np.zeros((2, 3), int))
    assert np.isnan([scores.accuracy, scores.miou]).all()
    assert scores.pixels == 0


@pytest.mark.parametrize(
    ("field", "value", "counts"),
    [
        ("extra_clusters", "merge", OVER_CLUSTERED),
        ("extra_clusters", "drop", OVER_CLUSTERED),
        ("matching", "many-to-one", OVER_CLUSTERED),
        ("absent_classes", "zero", np.array([[8, 2, 0], [0, 9, 0], [0, 0, 0]])),
    ],
)
def test_the_rules_are_taken_from_the_protocol(field, value, counts):
    under = score_under(counts, get_protocol(f"stego320@2[{field}={value}]"))
    assert under.miou == score(counts, **{field: value}).miou
    assert under.miou != score_under(counts, get_protocol("stego320@2")).miou


# --- Every image by itself -----------------------------------------------------------------------

image_counts = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(1, 50))
)
"""Counts without zeros, so that matchings seldom tie."""


def has_one_best_matching(image: np.ndarray) -> bool:
    """Whether no two one-to-one assignments are equally good: the matching then is what it is."""
    scores = sorted((hits for hits, _ in one_to_one_assignments(image)), reverse=True)
    return len(scores) < 2 or scores[0] > scores[1]


@many
@given(image_counts)
@pytest.mark.parametrize("unmatched", ["errors", "dropped"])
def test_the_oracle_is_every_image_under_its_own_best_assignment(unmatched, counts):
    assume(all(has_one_best_matching(image) for image in counts))
    classes = counts.shape[2]
    hits, false, missed, pixels = (np.zeros(classes) for _ in range(4))
    for image in counts:
        _, class_of = max(one_to_one_assignments(image), key=lambda found: found[0])
        for cluster, row in enumerate(image):
            for true, n in enumerate(row):
                if cluster not in class_of and unmatched == "dropped":
                    continue
                pixels[true] += n
                if class_of.get(cluster) == true:
                    hits[true] += n
                else:
                    missed[true] += n
                    if cluster in class_of:
                        false[class_of[cluster]] += n
    found = per_image_oracle(counts, unmatched=unmatched)
    assert found.accuracy == pytest.approx(hits.sum() / pixels.sum())
    union = hits + false + missed
    np.testing.assert_allclose(found.iou, np.where(union > 0, hits / np.maximum(union, 1), np.nan))
    assert found.miou == pytest.approx((hits[union > 0] / union[union > 0]).mean())
    assert (found.class_of_cluster == UNMATCHED).all()


@many
@given(image_counts)
def test_the_oracle_with_errors_is_the_count_of_the_released_diffseg(counts):
    """Its formula: columns of unmatched clusters leave the false positives, and nothing else."""
    assume(all(has_one_best_matching(image) for image in counts))
    true_positive, false_positive, false_negative, pixels = 0, 0, 0, 0
    for image in counts:
        table = np.zeros((image.shape[1], max(image.shape)))
        table[:, : image.shape[0]] = image.T
        rows, columns = linear_sum_assignment(table, maximize=True)
        pixels += table.sum()
        true_positive = true_positive + table[rows, columns]
        false_negative = false_negative + table.sum(axis=1) - table[rows, columns]
        matched = table[:, columns]
        false_positive = false_positive + matched.sum(axis=0) - np.diag(matched)
    found = per_image_oracle(counts)
    assert found.accuracy == pytest.approx(true_positive.sum() / pixels)
    np.testing.assert_allclose(found.iou, true_positive / (true_positive + false_positive + false_negative))


def test_the_oracle_forgives_clusters_that_change_their_meaning_and_dropping_forgives_more():
    swapped = np.array([[[8, 0], [0, 8]], [[0, 8], [8, 0]]])
    assert (score(swapped).accuracy, per_image_oracle(swapped).accuracy) == (0.5, 1)
    split = np.array([[[40, 0], [0, 50], [10, 0]]])
    assert per_image_oracle(split).accuracy == 0.9
    assert per_image_oracle(split).recall.tolist() == [0.8, 1]
    assert per_image_oracle(split, unmatched="dropped").accuracy == 1


@pytest.mark.parametrize("counts", [np.zeros((2, 2)), np.array([[[1, -1]]])])
def test_the_oracle_needs_counts_per_image(counts):
    with pytest.raises(ValueError, match="non-negative"):
        per_image_oracle(counts)
