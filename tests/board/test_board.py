"""The data of a board: what shares a table, what a row says, how rows are ranked and marked."""

from __future__ import annotations

import base64
import io
import statistics
from pathlib import Path

import numpy as np
import pytest
from board_records import FLOORS, IMAGES, planted_counts, write_runs
from PIL import Image

from uss_bench.board import compute, markdown, pictures
from uss_bench.board.headline import headline
from uss_bench.board.latex import render_overview
from uss_bench.board.model import SCORES, Board
from uss_bench.claims import Claim
from uss_bench.evaluation.scoring import per_image_oracle
from uss_bench.protocol import get_protocol
from uss_bench.results.collection import gather, read_entries
from uss_bench.statistics.comparing import rank_tiers
from uss_bench.statistics.intervals import Interval, image_interval
from uss_bench.statistics.sampling import Sampling

CRF_MIOU = ("crf", "miou")


def boards_of(folder: Path, **options) -> list[Board]:
    entries, broken = read_entries([folder])
    assert broken == []
    return compute.boards(gather(entries), floors=FLOORS, **options)


@pytest.fixture
def no_statistics(monkeypatch):
    """For tests of everything else: intervals of one point, and tiers by the mean count of hits."""
    monkeypatch.setattr(compute, "_sampling", lambda setting, refinement: setting.counts(refinement))
    monkeypatch.setattr(compute, "interval_of", lambda sampling, metric: Interval(1.0, 2.0))
    monkeypatch.setattr(compute, "tiers_of", lambda settings, metric: list(range(1, len(settings) + 1)))


def row_of(board: Board, label: str):
    return next(row for row in board.rows if row.label == label)


# --- Tables --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_statistics")
def test_external_predictions_stand_in_every_table_of_the_backbone_that_they_name(tmp_path):
    write_runs(tmp_path, "alpha", sha256="aa")
    write_runs(tmp_path, "beta", sha256="bb")
    write_runs(tmp_path, "theirs", sha256="", code="external-0123456789ab", crf=False)
    write_runs(tmp_path, "far", sha256="", code="external-0123456789ab", backbone="resnet")
    write_runs(tmp_path, "other", sha256="", code="external-0123456789ab", fingerprint="f1")
    found = {tuple(sorted(row.label for row in board.rows)) for board in boards_of(tmp_path)}
    assert found == {
        ("alpha", "theirs (external)"),
        ("beta", "theirs (external)"),
        ("far (external)",),
        ("other (external)",),
    }


@pytest.mark.usefixtures("no_statistics")
def test_the_oracle_stands_apart_and_ranks_nothing(tmp_path):
    write_runs(tmp_path, "alpha", 0.4, seeds=(0, 1))
    (board,) = boards_of(tmp_path)
    (row,) = board.rows
    (configuration,) = gather(read_entries([tmp_path])[0])
    due = [100 * per_image_oracle(counts).miou for counts in configuration.counts("crf")]
    assert row.oracle[CRF_MIOU] == pytest.approx(statistics.fmean(due))
    assert row.oracle[CRF_MIOU] >= row.measures[CRF_MIOU].mean
    page = markdown.render([board])
    assert f"/ {row.oracle[CRF_MIOU]:.1f} |" in page
    assert "No rank uses it" in page


@pytest.mark.usefixtures("no_statistics")
@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "stego320@2[flip=false]"},
        {"fingerprint": "f1"},
        {"limit": 5},
        {"dataset": "city"},
        {"backbone": "resnet"},
        {"sha256": "bb"},
    ],
)
def test_results_under_different_data_protocols_or_backbones_never_share_a_table(tmp_path, other):
    write_runs(tmp_path, "alpha", seeds=(0,))
    write_runs(tmp_path, "beta", seeds=(0,), **other)
    first, second = boards_of(tmp_path)
    assert {len(first.rows), len(second.rows)} == {1}
    assert first.slug != second.slug


@pytest.mark.usefixtures("no_statistics")
def test_floors_stand_last_in_the_table_of_every_backbone_of_their_data_and_protocol(tmp_path):
    write_runs(tmp_path, "constant", 0.99, backbone="none", sha256="", seeds=(0,))
    write_runs(tmp_path, "alpha", 0.5, seeds=(0,))
    write_runs(tmp_path, "beta", 0.6, seeds=(0,), backbone="resnet")
    write_runs(tmp_path, "gamma", 0.6, seeds=(0,), dataset="city")
    found = {
        (board.key.dataset, board.backbone): [(row.label, row.floor) for row in board.rows]
        for board in boards_of(tmp_path)
    }
    assert found == {
        ("city", "vit"): [("gamma", False)],
        ("town", "resnet"): [("beta", False), ("constant", True)],
        ("town", "vit"): [("alpha", False), ("constant", True)],
    }


@pytest.mark.usefixtures("no_statistics")
def test_floors_alone_have_a_table_of_their_own(tmp_path):
    write_runs(tmp_path, "random", 0.1, backbone="none", sha256="", seeds=(0,))
    (board,) = boards_of(tmp_path)
    assert (board.backbone, [row.label for row in board.rows]) == ("none", ["random"])


@pytest.mark.usefixtures("no_statistics")
def test_label_maps_made_elsewhere_have_raw_scores_only(tmp_path):
    write_runs(tmp_path, "theirs", seeds=(0,), crf=False)
    write_runs(tmp_path, "alpha", seeds=(0,))
    (board,) = boards_of(tmp_path)
    assert board.primary == CRF_MIOU
    assert set(row_of(board, "theirs").measures) == {("raw", "accuracy"), ("raw", "miou")}
    assert [row.label for row in board.rows] == ["alpha", "theirs"]
    only = compute.boards(gather(entry for entry in read_entries([tmp_path])[0] if not entry.record.last.crf))
    assert only[0].primary == ("raw", "miou")


# --- Rows ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_statistics")
def test_the_headline_leaves_out_rows_that_have_no_score_in_it(tmp_path):
    for fingerprint, dataset in (("f1", "town"), ("f2", "village")):
        for method in ("alpha", "beta"):
            write_runs(tmp_path, method, fingerprint=fingerprint, dataset=dataset)
        write_runs(tmp_path, "maps", crf=False, fingerprint=fingerprint, dataset=dataset)
    found = headline(boards_of(tmp_path))
    assert found is not None
    assert len(found.boards) == 2
    assert {title for title, _, _ in found.rows} == {"alpha", "beta"}
    assert "maps" not in render_overview(boards_of(tmp_path))


@pytest.mark.usefixtures("no_statistics")
def test_a_row_sums_up_its_seeds(tmp_path):
    paths = write_runs(tmp_path, "alpha", 0.5, selected_skill=0.7, labels_used=[], notes=["a note"])
    (board,) = boards_of(tmp_path)
    (row,) = board.rows
    for refinement, metric in SCORES:
        values = [run.value((refinement, metric)) for run in row.runs]
        measure = row.measures[refinement, metric]
        assert measure.values == tuple(values)
        assert measure.mean == pytest.approx(np.mean(values))
        assert measure.sd == pytest.approx(np.std(values, ddof=1))
        chosen = [run.value((refinement, metric), "selected") for run in row.runs]
        assert row.gap[refinement, metric] == pytest.approx(np.mean(chosen) - np.mean(values))
    assert row.gap[CRF_MIOU] > 10
    assert [run.path for run in row.runs] == sorted(paths)
    assert [run.seed for run in row.runs] == [0, 1, 2]
    assert row.train_seconds == 11.0
    assert row.peak_bytes == 3 * 2**30
    assert row.clusters_used == (3, 3)
    assert board.images == IMAGES


@pytest.mark.usefixtures("no_statistics")
def test_one_seed_has_no_deviation_and_one_checkpoint_no_gap(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(4,))
    (row,) = boards_of(tmp_path)[0].rows
    assert row.measures[CRF_MIOU].sd is None
    assert row.gap == {}


@pytest.mark.usefixtures("no_statistics")
def test_iou_per_class_is_the_mean_over_the_seeds_that_have_one(tmp_path):
    paths = write_runs(tmp_path, "alpha", seeds=(0, 1))
    (row,) = boards_of(tmp_path)[0].rows
    entries, _ = read_entries([tmp_path])
    assert len(entries) == len(paths)
    for index, value in enumerate(row.iou["crf"]):
        assert value == pytest.approx(statistics.fmean(e.record.last.crf.iou[index] for e in entries))


@pytest.mark.usefixtures("no_statistics")
def test_a_record_of_other_code_than_the_present_is_stale(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,), code="0123456789ab")
    write_runs(tmp_path, "beta", seeds=(0,), code="0123456789ab")
    (board,) = boards_of(tmp_path, is_stale=lambda cell: cell.method.name == "alpha")
    assert row_of(board, "alpha").stale
    assert not row_of(board, "beta").stale


# --- Statistics ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contest(tmp_path_factory) -> Board:
    """Two that cannot be told apart, one that is clearly worse, and one that used labels."""
    folder = tmp_path_factory.mktemp("contest")
    write_runs(folder, "alpha", 0.60, seeds=(0, 1))
    write_runs(folder, "twin", 0.601, seeds=(3, 4))
    write_runs(folder, "worse", 0.30, seeds=(0, 1))
    write_runs(folder, "cheat", 0.90, seeds=(0, 1), labels_used=["tuning"])
    (board,) = boards_of(folder)
    return board


@pytest.mark.parametrize("metric", ["accuracy", "miou"])
def test_intervals_and_tiers_are_those_of_the_statistics(contest, metric):
    protocol = get_protocol("stego320@2")
    counts = {
        label: [planted_counts(skill, 7 * seed) for seed in seeds]
        for label, skill, seeds in (("alpha", 0.6, (0, 1)), ("twin", 0.601, (3, 4)), ("worse", 0.3, (0, 1)))
    }
    interval = image_interval(counts["alpha"], protocol, metric)
    measure = row_of(contest, "alpha").measures["crf", metric]
    assert (measure.low, measure.high, measure.note) == (interval.low, interval.high, interval.note)
    assert measure.low < measure.high
    tiers = rank_tiers(list(counts.values()), protocol, metric)
    assert [row_of(contest, label).measures["crf", metric].tier for label in counts] == tiers


def test_every_setting_is_resampled_once_before_and_once_after_the_crf(tmp_path, monkeypatch):
    write_runs(tmp_path, "alpha", 0.6, seeds=(0,))
    write_runs(tmp_path, "beta", 0.5, seeds=(0,))
    write_runs(tmp_path, "alpha", 0.4, seeds=(0,), backbone="resnet")
    write_runs(tmp_path, "constant", 0.2, seeds=(0,), backbone="none", sha256="")  # stands in both tables
    made, of = [], Sampling.of

    def counted(counts, protocol, resamples=1000, seed=0):
        made.append(counts[0].sum())
        return of(counts, protocol, 20, seed)

    monkeypatch.setattr(Sampling, "of", counted)
    assert [len(board.rows) for board in boards_of(tmp_path)] == [2, 3]
    assert len(made) == len(set(made)) == 4 * 2


def test_what_cannot_be_told_from_the_best_is_tied_with_it(contest):
    alpha, twin, worse = (row_of(contest, name).measures[CRF_MIOU] for name in ("alpha", "twin", "worse"))
    assert alpha.tier == twin.tier == 1
    assert {alpha.place, twin.place} == {1, 2}
    assert worse.tier == 2
    assert worse.place == 3
    assert {row.label for row in contest.leaders} == {"alpha", "twin"}


def test_a_row_that_used_labels_is_shown_and_not_ranked(contest):
    cheat = row_of(contest, "cheat")
    assert cheat.labels_used == ("tuning",)
    assert contest.rows[0] == cheat
    assert all((one.tier, one.place) == (None, None) for one in cheat.measures.values())


@pytest.mark.usefixtures("no_statistics")
def test_a_single_row_has_no_rank(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,))
    (row,) = boards_of(tmp_path)[0].rows
    assert row.measures[CRF_MIOU].tier is None


# --- Sensitivity ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_statistics")
def test_a_curve_joins_settings_that_differ_in_one_number_only(tmp_path):
    base = {"tau": 0.1, "dim": 64, "wide": True}
    for change in ({}, {"tau": 0.05}, {"tau": 0.2}, {"dim": 32}, {"wide": False}, {"tau": 0.4, "dim": 8}):
        write_runs(tmp_path, "alpha", params=base | change, seeds=(0,))
    write_runs(tmp_path, "alpha", params=base | {"tau": 9.0}, seeds=(0,), code="ba9876543210")
    (board,) = boards_of(tmp_path)
    found = {(one.parameter, one.values) for one in board.curves}
    assert found == {("tau", (0.05, 0.1, 0.2)), ("dim", (32.0, 64.0))}
    for one in board.curves:
        assert [row.params[one.parameter] for row in one.rows] == list(one.values)


# --- Claims --------------------------------------------------------------------------------------


def a_claim(**fields) -> Claim:
    given = {
        "paper": "paper",
        "table": "Table 1",
        "label": "Alpha",
        "method": "alpha",
        "source": "own",
        "dataset": "town",
        "split": "test",
        "backbone": "vit",
        "crf": True,
        "checkpoint": "last",
        "protocol": "stego320@2",
        "accuracy": 99.0,
        "miou": 99.0,
    }
    return Claim(**(given | fields))


@pytest.mark.usefixtures("no_statistics")
def test_the_most_comparable_claim_comes_first_with_its_status(tmp_path):
    write_runs(tmp_path, "alpha", 0.5)
    far = a_claim(backbone="resnet", split="val", table="Table 2")
    near = a_claim(backbone="resnet", table="Table 3")
    same = a_claim()
    (board,) = boards_of(tmp_path, claims=[far, near, same])
    (row,) = board.rows
    assert [one.source for one in row.published] == ["paper, Table 1", "paper, Table 3", "paper, Table 2"]
    first, second, third = row.published
    assert first.status == {"accuracy": "lower", "miou": "lower"}
    assert first.printed == {"accuracy": "99.0", "miou": "99.0"}
    assert [one.comparable for one in row.published] == [True, False, False]
    assert set(second.status.values()) == set(third.status.values()) == {"protocol differs"}


@pytest.mark.usefixtures("no_statistics")
def test_claims_about_other_methods_are_not_a_rows(tmp_path):
    write_runs(tmp_path, "alpha", 0.5)
    (board,) = boards_of(tmp_path, claims=[a_claim(method="beta"), a_claim(dataset="city")])
    assert board.rows[0].published == ()


# --- Pictures ------------------------------------------------------------------------------------


def read_uri(uri: str) -> np.ndarray:
    """Return the picture of a data URI, uint8 (H, W, 3)."""
    kind, _, content = uri.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{picture.format.lower()}"
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("colors", [2, 3, 5, 16, 17, 200, 256, 257, 500])
@pytest.mark.parametrize("shape", [(100, 100), (100, 130)])
def test_a_small_map_is_the_map_in_its_colors(colors, shape):
    rng = np.random.default_rng(colors)
    indices = rng.integers(0, colors, shape)
    palette = rng.integers(0, 256, (colors, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_uri(pictures.map_uri(indices, palette)), palette[indices])
    large = indices.repeat(3, axis=0).repeat(3, axis=1)
    assert pictures.map_uri(large, palette) == pictures.map_uri(indices, palette)


def test_a_small_image_is_the_mean_over_blocks():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    expected = image.astype(float).reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(read_uri(pictures.image_uri(image)), expected, atol=0.5)
    np.testing.assert_array_equal(read_uri(pictures.image_uri(image[:90])), image[:90])


@pytest.mark.usefixtures("no_statistics")
@pytest.mark.parametrize("dataset", ["town", "toy3"])
def test_no_picture_is_drawn_of_photographs_or_of_another_world(tmp_path, registry, dataset):
    write_runs(tmp_path, "alpha", seeds=(0,), dataset=dataset)  # the fingerprint is not toy3's
    (board,) = boards_of(tmp_path)
    assert pictures.with_pictures(board, registry).strips == ()


@pytest.mark.usefixtures("no_statistics")
def test_the_pictures_of_a_toy_run_are_its_images_and_maps(run, registry):
    outcome = run("constant", "toy3", limit=6)
    (board,) = boards_of(run.results)
    strips = pictures.with_pictures(board, registry).strips
    assert [strip.title for strip in strips] == ["image", "ground truth", "constant, seed 0, CRF"]
    prediction = read_uri(next(iter(strips[2].pictures.values())))
    matched = outcome.record.last.crf.class_of_cluster[0]
    assert (prediction == outcome.record.classes[matched].color).all()


@pytest.mark.usefixtures("no_statistics")
@pytest.mark.parametrize(
    ("claim", "shown"),
    [
        ({}, True),
        ({"variant": "unverified"}, False),
        ({"variant": "unverified", "params": {"tau": 0.1}}, False),
        ({"variant": "without b"}, False),
        ({"variant": "without b", "params": {"tau": 0.2}}, False),
        ({"variant": "without b", "params": {"tau": 0.1}}, True),
    ],
)
def test_what_is_unverified_or_another_setting_stands_beside_no_row(tmp_path, claim, shown):
    write_runs(tmp_path, "alpha", 0.5, params={"tau": 0.1})
    (board,) = boards_of(tmp_path, claims=[a_claim(**claim)])
    assert bool(board.rows[0].published) is shown
