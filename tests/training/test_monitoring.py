"""Label-free monitoring: its numbers against literal ones, its rule, and that it changes nothing."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from msgspec.structs import replace
from running import PLUGINS, SMALL

from uss_bench.cli.output import summary
from uss_bench.experiment import evaluating, runner
from uss_bench.results.files import read_arrays, read_record, read_state
from uss_bench.results.record import MonitorPoint
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext
from uss_bench.training.monitoring import SAMPLE_ITEMS, collapse_warning, point, sample_indices

SMOOSEG = {"steps": 5, "checkpoint_every": 2, "batch_size": 2, "dim": 4}


def a_point(shares: list[float], before: np.ndarray | None = None) -> MonitorPoint:
    clusters = np.repeat(np.arange(len(shares)), (1000 * np.array(shares)).round().astype(int))
    return point(1, clusters, np.full(len(clusters), 0.5), len(shares), before)


# --- The numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "patches", "seed"), [(3, 50, 0), (27, 400, 1), (5, 7, 2), (4, 1, 3)])
def test_a_point_says_what_counting_by_hand_says(k, patches, seed):
    rng = np.random.default_rng(seed)
    clusters = np.minimum(rng.geometric(0.3, patches) - 1, k - 1)
    before = rng.integers(0, k, patches)
    probability = rng.uniform(0, 1, patches).astype(np.float32)
    found = point(7, clusters, probability, k, before)

    counts = [sum(int(c) == cluster for c in clusters) for cluster in range(k)]
    shares = [count / patches for count in counts if count]
    assert found.step == 7
    assert found.used == len(shares)
    assert found.largest == pytest.approx(max(shares), abs=1e-6)
    assert found.entropy == pytest.approx(-sum(s * math.log(s, k) for s in shares), abs=1e-6)
    same = sum(int(a) == int(b) for a, b in zip(clusters, before, strict=True))
    assert found.agreement == pytest.approx(same / patches, abs=1e-6)
    sure = sum(p > 0.9 for p in probability.tolist())
    assert found.confident == pytest.approx(sure / patches, abs=1e-6)
    assert found.confidence == pytest.approx(sum(probability.tolist()) / patches, abs=1e-5)
    ordered = sorted(counts, reverse=True)
    assert 100 * sum(ordered[: found.holding]) >= 99 * patches
    assert 100 * sum(ordered[: found.holding - 1]) < 99 * patches


def test_entropy_runs_from_0_for_one_cluster_to_1_for_equal_shares():
    assert a_point([1.0, 0, 0]).entropy == 0
    assert a_point([0.25] * 4).entropy == 1
    assert a_point([1.0]).entropy == 0
    assert a_point([0.5, 0.5, 0, 0]).entropy == pytest.approx(0.5)


def test_agreement_counts_two_clusters_that_swap_as_a_change():
    clusters = np.array([0, 0, 1, 1, 2])
    swapped = np.array([1, 1, 0, 0, 2])
    assert point(1, swapped, np.ones(5), 3, clusters).agreement == pytest.approx(0.2)
    assert point(1, clusters, np.ones(5), 3, None).agreement is None


@pytest.mark.parametrize(
    ("shares", "warning"),
    [
        ([0.6, 0.39, 0.01] + [0.0] * 24, "2 of 27 clusters hold 99% of the patches"),
        ([0.2, 0.2, 0.2, 0.2, 0.2] + [0.0] * 22, "5 of 27 clusters hold 99% of the patches"),
        ([0.2, 0.2, 0.2, 0.2, 0.1, 0.1] + [0.0] * 21, None),
        ([0.5, 0.48, 0.02] + [0.0] * 24, "3 of 27 clusters hold 99% of the patches"),
        ([0.5, 0.5] + [0.0] * 9, "2 of 11 clusters hold 99% of the patches"),
        ([0.5, 0.3, 0.2] + [0.0] * 8, None),
        ([0.99, 0.01, 0.0], "1 of 3 clusters holds 99% of the patches"),
        ([0.98, 0.02, 0.0], None),
        ([1.0, 0.0], "1 of 2 clusters holds 99% of the patches"),
        ([1.0], None),
    ],
)
def test_a_collapse_is_99_percent_in_at_most_a_fifth_of_the_clusters(shares, warning):
    assert collapse_warning([a_point(shares)], len(shares)) == warning


def test_only_the_final_state_can_have_collapsed():
    collapsed, sound = a_point([1.0, 0, 0]), a_point([0.4, 0.3, 0.3])
    assert collapse_warning([collapsed, sound], 3) is None
    assert collapse_warning([sound, collapsed], 3) is not None
    assert collapse_warning([], 3) is None


@pytest.mark.parametrize("items", [1, 5, 64, 65, 5000])
def test_the_sample_is_fixed_and_of_different_items(items):
    state = torch.get_rng_state()
    chosen = sample_indices(items)
    assert chosen == sample_indices(items) == sorted(set(chosen))
    assert len(chosen) == min(items, SAMPLE_ITEMS)
    assert set(chosen) <= set(range(items))
    assert torch.equal(state, torch.get_rng_state())
    if items == 5000:
        assert len({index % 5 for index in chosen}) == 5, "five crops of an image are all represented"


# --- In a run ------------------------------------------------------------------------------------


def test_monitoring_changes_no_count_no_state_and_no_curve(run, monkeypatch):
    watched = run("smooseg", params=SMOOSEG)
    arrays = read_arrays(watched.path, watched.record)
    state = read_state(watched.path, watched.record)
    monkeypatch.setattr(runner, "monitor_points", lambda *_: [])
    alone = run("smooseg", params=SMOOSEG)
    assert watched.record.monitor
    assert alone.record.monitor == []
    counts = read_arrays(alone.path, alone.record).counts
    assert counts.keys() == arrays.counts.keys()
    for key, value in counts.items():
        np.testing.assert_array_equal(value, arrays.counts[key])
    assert read_state(alone.path, alone.record) == state
    assert alone.record.curves == watched.record.curves
    assert alone.record.candidates == watched.record.candidates


def test_the_points_are_what_the_offered_and_the_final_states_predict(run):
    outcome = run("smooseg", params=SMOOSEG)
    points = outcome.record.monitor
    assert [one.step for one in points] == [2, 4, None]
    setup = run.setup("smooseg", params=SMOOSEG)
    method = setup.make_method()
    method.load_state_dict(safetensors.torch.load(read_state(outcome.path, outcome.record)))
    items = setup.training_items()
    features = run.store(setup).open(items, ["tokens"])
    assert len(items) <= SAMPLE_ITEMS
    clusters, sure = [], []
    for index in range(len(items)):
        with torch.no_grad():
            logits = method.classify(method.embed({"tokens": features[index]["tokens"][None]}))[0]
        for row, column in np.ndindex(*logits.shape[1:]):
            pixel = [setup.alpha * float(value) for value in logits[:, row, column]]
            clusters.append(pixel.index(max(pixel)))
            sure.append(math.exp(max(pixel)) / sum(map(math.exp, pixel)))
    shares = [clusters.count(k) / len(clusters) for k in set(clusters)]
    assert points[-1].used == len(shares)
    assert points[-1].largest == pytest.approx(max(shares), abs=1e-5)
    assert points[-1].confidence == pytest.approx(sum(sure) / len(sure), abs=1e-5)
    assert points[0].agreement is None
    assert all(0 <= one.agreement <= 1 for one in points[1:])


def test_the_final_state_is_not_told_twice_where_it_is_the_last_offer(run):
    record = run("smooseg", params={**SMOOSEG, "steps": 4}).record
    assert [one.step for one in record.monitor] == [2, 4]
    assert [one.step for one in record.candidates] == [2, 4, None]


def test_a_look_at_a_few_items_is_what_embed_receives_and_extracts_nothing_else(run):
    setup = run.setup("smooseg")
    items = setup.training_items()
    store = run.store(setup)
    context = RunContext(
        method=setup.make_method(),
        items=items,
        store=store,
        seed=0,
        scratch=run.folder,
        clock=Clock(),
    )
    streamed = context.sample(["image", "tokens"], [1, 3])
    assert store.encoded == 2
    assert not list(run.folder.rglob("*.npy"))
    expected = context.features(["image", "tokens"]).batch([1, 3])
    stored = context.sample(["image", "tokens"], [1, 3])
    assert store.encoded == 2 + len(items)
    assert stored.keys() == expected.keys() == {"image", "tokens"}
    for name, value in expected.items():
        assert torch.equal(stored[name], value)
        torch.testing.assert_close(streamed[name], value, rtol=2e-3, atol=2e-3)


def test_what_does_not_train_is_not_monitored(run):
    assert run("constant").record.monitor == []


def test_a_collapse_stands_in_the_notes_and_in_the_summary(run, monkeypatch):
    collapsed = a_point([1.0, 0.0])
    monkeypatch.setattr(evaluating, "monitor", lambda *_: [collapsed])
    record = run("smooseg", params=SMOOSEG).record
    assert "1 of 2 clusters holds 99% of the patches" in record.notes
    assert "Warning, seed 0: 1 of 2 clusters holds 99% of the patches." in summary.run_summary([record])
    sound = replace(record, monitor=[a_point([0.5, 0.5])])
    assert "Warning" not in summary.run_summary([sound])
    assert "2 of 2 clusters used, entropy 1.00, largest 50.0%" in summary.run_summary([sound])


def test_records_from_before_are_read_and_summed_up():
    path = min((Path(__file__).parents[2] / "leaderboards" / "records").glob("**/*.json"))
    record = replace(read_record(path), monitor=[])
    assert "Without labels" not in summary.run_summary([record])


def test_a_run_leaves_a_picture_of_its_training(command, tmp_path):
    pairs = [part for name, value in SMOOSEG.items() for part in ("--set", f"{name}={value}")]
    quick = ["--plugin", PLUGINS, "--quiet", "--workers", 1, "--protocol", SMALL, "--out", tmp_path]
    said = command("run", "--method", "smooseg", "--dataset", "tiny", *pairs, *quick)
    assert said.code == 0, said.err
    (picture,) = tmp_path.glob("*/*.monitor.png")
    assert str(picture) in said.out
    first = hashlib.sha256(picture.read_bytes()).digest()
    assert command("run", "--method", "smooseg", "--dataset", "tiny", *pairs, *quick, "--force").code == 0
    assert hashlib.sha256(picture.read_bytes()).digest() == first, "the same run, the same picture"
    assert command("run", "--method", "constant", "--dataset", "tiny", *quick).code == 0
    assert len(list(tmp_path.glob("*/*.monitor.png"))) == 1
