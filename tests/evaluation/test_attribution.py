"""Error attribution against brute force over single pixels, and on cases made by hand."""

from __future__ import annotations

import csv
import io
import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from msgspec.structs import replace
from plot_records import a_cell, put

from uss_bench.evaluation.attribution import (
    class_errors,
    clusters_holding,
    effective_clusters,
    fate_of,
    matching_stability,
    scores_by_matching,
)
from uss_bench.evaluation.scoring import score_under
from uss_bench.plots.numbers import mean
from uss_bench.protocol import Protocol, get_protocol
from uss_bench.results.files import read_record
from uss_bench.results.record import ClassRow

few = settings(deadline=None, max_examples=40)

STRICT = get_protocol("stego320@2")


def under(**rules: str) -> Protocol:
    changes = ",".join(f"{name}={value}" for name, value in rules.items())
    return get_protocol(f"stego320@2[{changes}]")


def some(images: int, clusters: int, classes: int):
    return arrays.arrays(np.int64, (images, clusters, classes), elements=st.integers(0, 20))


# --- Classes -------------------------------------------------------------------------------------

# Sky in clusters 0 and 1, road in 2, car in the road's cluster; nothing is a boat.
BY_HAND = np.array(
    [
        # sky road car boat
        [60, 0, 0, 0],
        [30, 0, 0, 0],
        [10, 80, 20, 0],
        [0, 0, 0, 0],
    ]
)


def test_a_case_by_hand():
    found = class_errors(BY_HAND, STRICT)
    assert found.fates() == ["own", "own", "lost", "absent"]
    np.testing.assert_allclose(found.share, [0.5, 0.4, 0.1, 0])
    np.testing.assert_allclose(found.recall[:3], [0.6, 1, 0])
    # Of the sky, 30 % is in cluster 1, which a class without anything to win was given.
    assert found.counted_as[0, 1] == pytest.approx(0.1)
    assert found.counted_as[0, 2:4].sum() == pytest.approx(0.3)
    assert found.counted_as[2, 1] == 1
    assert np.isnan(found.counted_as[3]).all()
    assert found.clusters_holding.tolist() == [2, 1, 1, 0]
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    np.testing.assert_allclose(found.effective_clusters, [math.exp(entropy), 1, 1, np.nan])


def test_a_class_whose_pixels_are_mostly_another_is_absorbed():
    assert class_errors(np.array([[90, 30], [0, 20]]), STRICT).fates() == ["own", "absorbed"]
    assert fate_of(np.array([0.2, 0.2, 0.6]), 0) == "own"  # clusters of no class absorb nothing
    assert fate_of(np.array([0.4, 0.6]), 0) == "own"  # one class and 'no class'


def test_with_fewer_clusters_than_classes_some_class_is_lost():
    assert class_errors(np.array([[9, 5, 1], [0, 0, 4]]), STRICT).fates() == ["own", "lost", "own"]


@few
@given(counts=some(2, 4, 3), rule=st.sampled_from(["strict", "merge", "drop"]))
def test_shares_are_those_of_the_single_pixels(counts, rule):
    protocol = under(extra_clusters=rule)
    found = class_errors(counts, protocol)
    owner = score_under(counts, protocol).class_of_cluster
    kept = counts[:, :3] if rule == "drop" else counts
    pixels = [
        (cluster, true)
        for image, cluster, true in np.argwhere(kept)
        for _ in range(kept[image, cluster, true])
    ]
    for true in range(3):
        mine = [cluster for cluster, one in pixels if one == true]
        if not mine:
            assert np.isnan(found.counted_as[true]).all()
            continue
        for column in range(4):
            wanted = column if column < 3 else -1
            share = sum(owner[cluster] == wanted for cluster in mine) / len(mine)
            assert found.counted_as[true, column] == pytest.approx(share)
        assert found.share[true] == pytest.approx(len(mine) / len(pixels))


@few
@given(counts=some(1, 4, 3), seed=st.integers(0, 9))
def test_the_order_of_clusters_changes_no_spread(counts, seed):
    shuffled = np.random.default_rng(seed).permutation(counts[0], axis=0)
    np.testing.assert_array_equal(clusters_holding(counts[0], 0.9), clusters_holding(shuffled, 0.9))
    np.testing.assert_allclose(effective_clusters(counts[0]), effective_clusters(shuffled))


@few
@given(
    counts=arrays.arrays(np.int64, (4, 3), elements=st.integers(0, 9)), share=st.sampled_from([0.5, 0.9, 1])
)
def test_the_fewest_clusters_by_trying_all_sets_of_them(counts, share):
    for column, found in enumerate(clusters_holding(counts, share)):
        pixels = counts[:, column]
        due = 0
        if pixels.sum():
            due = next(
                size
                for size in range(1, 5)
                for chosen in itertools.combinations(pixels.tolist(), size)
                if 10 * sum(chosen) >= round(10 * share) * pixels.sum()
            )
        assert found == due


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_equal_parts_are_so_many_effective_clusters(parts):
    assert effective_clusters(np.full((parts, 1), 7))[0] == pytest.approx(parts)
    assert clusters_holding(np.full((10, 1), 1), 0.9)[0] == 9


# --- The ladder ----------------------------------------------------------------------------------


@few
@given(counts=some(3, 3, 3).filter(lambda one: one.any()))
def test_the_rungs_against_all_assignments(counts):
    hungarian, free, oracle = scores_by_matching(counts, STRICT)

    def best(one: np.ndarray) -> int:
        return max(sum(one[k, c] for k, c in enumerate(order)) for order in itertools.permutations(range(3)))

    pixels = counts.sum()
    assert hungarian.accuracy == pytest.approx(best(counts.sum(axis=0)) / pixels)
    assert free.accuracy == pytest.approx(counts.sum(axis=0).max(axis=1).sum() / pixels)
    assert oracle.accuracy == pytest.approx(sum(best(one) for one in counts) / pixels)
    assert hungarian.accuracy <= min(free.accuracy, oracle.accuracy) + 1e-12


@few
@given(counts=some(1, 4, 3).filter(lambda one: one.any()))
@pytest.mark.parametrize("absent", ["skip-empty-union", "zero"])
def test_for_a_single_image_the_oracle_is_the_hungarian(absent, counts):
    hungarian, _, oracle, _ = scores_by_matching(counts, under(absent_classes=absent))
    assert (oracle.accuracy, oracle.miou) == pytest.approx((hungarian.accuracy, hungarian.miou))


def test_the_oracle_follows_clusters_that_change_their_meaning_from_image_to_image():
    swapped = np.array([[[8, 0], [0, 8]], [[0, 8], [8, 0]]])
    hungarian, free, oracle = scores_by_matching(swapped, STRICT)
    assert (hungarian.accuracy, free.accuracy, oracle.accuracy, oracle.miou) == (0.5, 0.5, 1, 1)


# --- Stability -----------------------------------------------------------------------------------


def test_a_matching_that_every_image_agrees_on_is_kept_always():
    counts = np.tile(np.array([[9, 0, 0], [0, 9, 1], [0, 0, 9]]), (6, 1, 1))
    np.testing.assert_array_equal(matching_stability(counts, STRICT, resamples=50), [1, 1, 1])


def test_a_matching_that_images_disagree_on_changes_as_often_as_the_draws_say():
    # Two of three images want cluster k to be class k. A draw of three keeps that when at least two of
    # them are of these, which has the probability 3 · (2/3)² · (1/3) + (2/3)³ = 20/27.
    straight, crossed = np.diag([9, 9]), np.diag([9, 9])[::-1]
    counts = np.stack([straight, straight, crossed])
    kept = matching_stability(counts, STRICT, resamples=4000)
    np.testing.assert_allclose(kept, 20 / 27, atol=0.03)
    assert kept[0] == kept[1]


def test_a_class_without_a_cluster_of_its_own_has_none_to_keep():
    kept = matching_stability(np.tile(BY_HAND, (4, 1, 1)), STRICT, resamples=20)
    np.testing.assert_array_equal(kept, [1, 1, np.nan, np.nan])


def test_resamples_without_the_class_do_not_count():
    counts = np.stack([np.diag([9, 0]), np.diag([9, 0]), np.diag([9, 3])])
    np.testing.assert_array_equal(matching_stability(counts, STRICT, resamples=200), [1, 1])


@few
@given(counts=some(4, 3, 3), seed=st.integers(0, 9))
def test_the_same_seed_draws_the_same_and_shares_are_shares(counts, seed):
    first, again = (matching_stability(counts, STRICT, resamples=5, seed=seed) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert ((first >= 0) & (first <= 1) | np.isnan(first)).all()


# --- What is printed -----------------------------------------------------------------------------


def spread_out(image_count: int = 4) -> np.ndarray:
    return np.tile(BY_HAND, (image_count, 1, 1))


@pytest.fixture
def records(tmp_path):
    for seed in (0, 1):
        put(tmp_path, a_cell("ds2dl", seed=seed), spread_out())
    return tmp_path


def test_the_mean_over_seeds_leaves_out_what_is_not_known():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(mean(values), [2, 5, np.nan])


def test_the_table_tells_each_class_in_a_line(records, command):
    said = command("errors", "ds2dl", "--dataset", "tiny", "--records", records, "--resamples", 20)
    assert said.code == 0
    assert "ds2dl · tiny · vit · stego320@2" in said.out
    assert "mean over seeds 0, 1" in said.out
    lines = {line.split("  ")[0]: line.split() for line in said.out.splitlines()}
    assert lines["class 0"][2:5] == ["50.0", "60.0", "60.0"]
    assert "LOST:" in lines["class 2"]
    assert lines["class 2"][-4:] == ["100", "1", "1.0", "–"]
    assert " ".join(lines["class 3"]).endswith("not in the ground truth – – –")
    assert lines["Hungarian"][1:4] == ["70.0", "±", "0.0"]
    assert all(len(line) <= 110 for line in said.out.splitlines())


def test_lines_fit_a_terminal_however_long_the_names_are(tmp_path, command):
    rng = np.random.default_rng(0)
    names = ["furniture (thing)"[: 12 + i % 6] + str(i) for i in range(27)]
    classes = [ClassRow(name=name, color=(0, 0, 0)) for name in names]
    counts = rng.integers(0, 99, (3, 27, 27))
    path = put(tmp_path, a_cell(), counts, classes=classes)
    said = command("errors", path, "--resamples", 5)
    assert said.code == 0
    assert max(len(line) for line in said.out.splitlines()) <= 110


def test_csv_is_tidy_and_agrees_with_the_functions(records, command):
    said = command("errors", "ds2dl", "--dataset", "tiny", "--records", records, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    values = {(row["seed"], row["class"], row["measure"]): row["value"] for row in rows}
    assert len(values) == len(rows) == 2 * (4 * (4 + 5 + 3) + 6)
    assert float(values["1", "class 0", "recall"]) == pytest.approx(0.6)
    assert values["0", "class 3", "recall"] == ""
    assert float(values["0", "", "accuracy, Hungarian"]) == pytest.approx(0.7)


def test_a_probe_beside_the_record_is_a_rung_of_its_own_and_only_of_its_run(records, command):
    path, _ = sorted(records.glob("tiny/*.json"))
    record = read_record(path)
    row = replace(record.last.raw, accuracy=91.0, miou=55.5)
    result = {"schema": 1, "record": record.id, "raw": row, "crf": replace(row, accuracy=92.0)}
    path.with_suffix(".probe.json").write_bytes(msgspec.json.encode(result))
    said = command("errors", "ds2dl", "--dataset", "tiny", "--records", records, "--raw")
    (line,) = [line for line in said.out.splitlines() if "linear probe" in line]
    assert line.split()[-2:] == ["91.0", "55.5"]

    path.with_suffix(".probe.json").write_bytes(msgspec.json.encode(result | {"record": "another"}))
    assert command("errors", path).code == 1


def test_a_record_by_its_path_or_id_and_what_is_said_when_there_is_none(records, command):
    path, _ = sorted(records.glob("tiny/*.json"))
    by_path = command("errors", path)
    by_id = command("errors", path.stem.rpartition("-")[2], "--records", records, "--format", "md")
    assert by_path.code == by_id.code == 0
    assert "seed 0" in by_path.out
    assert "| class 0 " in by_id.out

    missing = command("errors", "nix", "--records", records)
    assert (missing.code, "METHOD --dataset" in missing.err) == (1, True)
    narrowed = command("errors", path, "--backbone", "vit")
    assert narrowed.code == 2
    wrong = command("errors", "ds2dI", "--dataset", "tiny", "--records", records)
    assert (wrong.code, "Did you mean 'ds2dl'" in wrong.err) == (2, True)
