"""What a plan will cost: bytes by arithmetic that a real run confirms, time only where it was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from board_records import write_runs
from running import PLUGINS, SMALL

from uss_bench.cli.output.estimate import estimate_text
from uss_bench.estimate.costs import Cost, cost_of, installed_costs, measured_costs, table_text
from uss_bench.estimate.estimating import CellSize, Extraction, Range, estimate
from uss_bench.estimate.sizes import cell_size
from uss_bench.results.files import read_record
from uss_bench.results.record import Phase
from uss_bench.runtime.formatting import byte_size

HERE = "AMD EPYC, 2 cores"

COST = Cost(
    method="smooseg",
    dataset="town",
    backbone="vit",
    train_side=100,
    eval_side=200,
    whole=False,
    flip=True,
    clusters=5,
    steps=100,
    batch_size=10,
    candidates=4,
    points=5,
    images=20,
    encoded=60,
    extract=36.0,
    train=50.0,
    choose=8.0,
    evaluate=10.0,
    monitor=2.5,
    device="cpu",
    processor="AMD EPYC",
    cores=2,
    counts_bytes=4000,
    other_bytes=700,
    state_bytes=900,
)
TRAINING = Extraction(key="a", facets=("tokens",), side=100, items=1000, item_bytes=50)
TESTS = Extraction(key="b", facets=("tokens",), side=200, items=600, item_bytes=200)
CELL = CellSize(
    method="smooseg",
    dataset="village",
    backbone="vit",
    train_side=100,
    eval_side=200,
    whole=False,
    refined=True,
    clusters=5,
    steps=3000,
    batch_size=10,
    candidates=11,
    images=300,
    extractions=(TRAINING, TESTS),
)


def seconds(cells, costs, *, device="cpu", machine=HERE):
    return estimate(cells, costs, device=device, machine=machine).seconds


def test_each_phase_is_its_rate_times_its_work():
    found = seconds([CELL], [COST])
    # 40 test items and their 20 training items were encoded in 36 s: 36 s / (40 × 200² + 20 × 100²) pixels.
    per_pixel = 36 / (40 * 200**2 + 20 * 100**2)
    expected = {
        "extract": per_pixel * (1000 * 100**2 + 600 * 200**2),
        "train": 50 / 100 * 3000,
        "candidates": 8 / (20 * 4) * 300 * 11,
        "evaluate": 10 / 20 * 300,
        "monitor": 2.5 / 5 * 11,
    }
    assert found.keys() == expected.keys()
    for phase, value in expected.items():
        assert found[phase] == Range(*[pytest.approx(value)] * 3)


def test_cells_share_their_extractions_and_nothing_else():
    one, three = seconds([CELL], [COST]), seconds([CELL] * 3, [COST])
    assert three["extract"] == one["extract"]
    for phase in ("train", "candidates", "evaluate", "monitor"):
        assert three[phase].middle == pytest.approx(3 * one[phase].middle)


def test_the_range_is_that_of_the_comparable_runs_and_the_middle_their_median():
    costs = [msgspec.structs.replace(COST, train=train) for train in (30.0, 50.0, 90.0)]
    assert seconds([CELL], costs)["train"] == Range(900.0, 1500.0, 2700.0)


def test_what_lies_in_the_store_is_not_extracted_again():
    half = replace(TRAINING, present=TRAINING.bytes // 2)
    done = replace(TESTS, present=TESTS.bytes)
    whole = seconds([replace(CELL, extractions=(TRAINING,))], [COST])["extract"]
    assert seconds([replace(CELL, extractions=(half, done))], [COST])["extract"] == whole * 0.5
    assert seconds([replace(CELL, extractions=(done,))], [])["extract"] == Range()


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("extract", {"backbone": "other"}),
        ("extract", {"train_side": 224}),
        ("train", {"method": "stego"}),
        ("train", {"backbone": "other"}),
        ("train", {"batch_size": 32}),
        ("train", {"steps": None}),
        ("candidates", {"eval_side": 320}),
        ("candidates", {"candidates": None}),
        ("evaluate", {"clusters": 6}),
        ("evaluate", {"eval_side": 320}),
        ("evaluate", {"whole": True}),
        ("evaluate", {"refined": False}),
        ("monitor", {"backbone": "other"}),
    ],
)
def test_a_phase_without_a_comparable_run_has_no_figure(phase, change):
    found = estimate([replace(CELL, **change)], [COST], device="cpu")
    assert phase not in found.seconds
    assert len(found.unmeasured[phase]) == 1
    assert "together, as far as measured" in estimate_text(found, HERE)
    assert f"Not measured: {phase} of" in estimate_text(found, HERE)


def test_runs_on_another_device_are_not_comparable_and_then_there_is_no_time_at_all():
    found = estimate([CELL], [COST], device="NVIDIA H100")
    assert not found.seconds
    text = estimate_text(found, "NVIDIA H100, AMD EPYC, 2 cores")
    assert "No time can be given" in text
    assert not re.search(r"\d (s|min|h|days)\b", text)
    assert byte_size(TRAINING.bytes + TESTS.bytes) in text


def test_runs_of_this_machine_come_before_those_of_another():
    other = msgspec.structs.replace(COST, processor="Pentium", train=5000.0)
    assert seconds([CELL], [COST, other])["train"].high == 1500.0
    found = estimate([CELL], [other], device="cpu", machine=HERE)
    assert "This machine is another" in estimate_text(found, HERE)


def test_refinement_is_alike_for_all_trained_methods_but_not_for_a_floor():
    stego = replace(CELL, method="stego")
    assert seconds([stego], [COST])["evaluate"] == seconds([CELL], [COST])["evaluate"]
    floor = msgspec.structs.replace(COST, method="constant", steps=None, points=0)
    assert "evaluate" not in seconds([stego], [floor])
    other = replace(CELL, method="constant", steps=None, extractions=())
    assert "evaluate" not in seconds([other], [COST])
    assert "evaluate" in seconds([other], [floor])


def test_the_total_is_no_bound_where_a_phase_was_not_measured():
    """ "At least 44 s", beside a range that begins at 22 s, contradicted itself."""
    costs = [msgspec.structs.replace(COST, evaluate=total / 15) for total in (22, 44, 50)]  # 300 images by 20
    text = estimate_text(estimate([replace(CELL, method="stego", extractions=())], costs, device="cpu"), HERE)
    (row,) = (line for line in text.splitlines() if line.startswith("together"))
    assert re.split(r" {2,}", row) == ["together, as far as measured", "44 s", "22 s – 50 s"]
    assert "at least" not in text


def test_streamed_features_have_no_figure_and_take_no_room():
    streamed = replace(TRAINING, streamed="they take 294.1 GB and the budget is 50.0 GB")
    found = estimate([replace(CELL, extractions=(streamed, TESTS))], [COST], device="cpu")
    assert found.store_bytes == TESTS.bytes
    assert found.unmeasured["train"] == ["smooseg with vit at 100 px, batch 10, streamed"]
    assert "294.1 GB and the budget is 50.0 GB" in estimate_text(found, HERE)


def test_a_run_that_may_have_streamed_says_nothing_of_extraction():
    assert "extract" not in seconds([CELL], [msgspec.structs.replace(COST, encoded=40 + 100 * 10)])
    assert "extract" not in seconds([CELL], [msgspec.structs.replace(COST, encoded=0)])


def test_records_grow_with_the_images_by_their_counts_only():
    found = estimate([CELL, CELL], [COST], device="cpu")
    assert found.record_bytes == Range(*[2 * (700 + 4000 / 20 * 300)] * 3)
    assert found.state_bytes == Range(*[2 * 900.0] * 3)


@pytest.mark.parametrize("steps", [None, 3])
def test_a_cost_is_read_from_a_record_with_the_sizes_of_its_files(tmp_path, steps):
    phases = {"train": Phase(seconds=12.0, peak_bytes=1), "evaluate": Phase(seconds=4.0, peak_bytes=1)}
    params = {} if steps is None else {"steps": steps, "batch_size": 16}
    (path,) = write_runs(tmp_path, "smooseg", seeds=[0], phases=phases, params=params)
    cost = cost_of(read_record(path), path)
    assert (cost.train, cost.evaluate, cost.steps) == (12.0, 4.0, steps)
    assert (
        cost.counts_bytes + cost.other_bytes == path.stat().st_size + path.with_suffix(".npz").stat().st_size
    )
    assert cost.counts_bytes > 0
    assert cost.state_bytes is None
    assert measured_costs([tmp_path, tmp_path]) == [cost]


def test_failed_and_broken_records_are_no_measurements(tmp_path):
    first, second = write_runs(tmp_path, "smooseg", seeds=[0, 1])
    first.write_bytes(b"{")
    second.write_text(second.read_text().replace('"status": "done"', '"status": "failed"'))
    assert measured_costs([tmp_path]) == []


def test_the_installed_table_holds_what_committed_records_say_and_what_the_benchmark_measured():
    committed = measured_costs([Path(__file__).parents[2] / "leaderboards" / "records"])
    others = {cost.backbone for cost in set(installed_costs()) - set(committed)}
    assert others <= {"dino_vits8", "dino_vitb8", "dinov2_vitb14"}


def test_the_installed_table_is_read_as_it_was_written_and_names_its_machine():
    costs = installed_costs()
    assert table_text(costs) == table_text(reversed(costs))
    assert {cost.method for cost in costs} >= {"dino", "smooseg", "stego", "ds2dl", "constant", "random"}
    assert all(cost.machine and cost.device and cost.train >= 0 and cost.evaluate > 0 for cost in costs)
    unknown = msgspec.structs.replace(COST, processor="", steps=None, state_bytes=None)
    assert "unknown processor" in unknown.machine


@pytest.mark.parametrize("method", ["dino", "smooseg"])
def test_the_arithmetic_is_what_a_run_does(run, method):
    params = {"steps": 4, "checkpoint_every": 2, "batch_size": 2}
    setup = run.setup(method, params=params)
    root = run.folder / "features"
    planned = cell_size(setup, budget=10**9, root=root)
    assert not root.exists(), "a dry run leaves nothing"
    outcome = run(method, params=params)
    record = outcome.record
    assert record.encoded_items >= sum(one.items for one in planned.extractions)
    stored = {path: np.load(path).nbytes for path in root.glob("*/*/*.npy")}
    assert sum(stored.values()) == sum(one.bytes for one in planned.extractions)
    assert {path.parts[-3] for path in stored} == {one.key for one in planned.extractions}
    assert planned.candidates == len(record.candidates)
    assert (planned.images, planned.clusters) == (record.images, record.clusters)
    after = cell_size(setup, budget=10**9, root=root)
    assert all(one.present >= one.bytes for one in after.extractions)
    assert estimate([after], [], device="cpu").seconds == {"extract": Range()}


def test_what_exceeds_the_budget_is_streamed(run):
    planned = cell_size(run.setup("dino"), budget=1000, root=run.folder / "features")
    assert all("the budget is" in one.streamed for one in planned.extractions)
    assert planned.streamed


def test_floors_have_no_features(run):
    planned = cell_size(run.setup("constant"), budget=10**9)
    assert planned.extractions == ()
    assert planned.candidates == 0


def test_a_dry_run_ends_with_the_estimate_of_what_is_pending(command, tmp_path):
    out = tmp_path / "results"
    asked = ["run", "--method", "dino", "--dataset", "tiny", "--plugin", PLUGINS, "--protocol", SMALL]
    asked += ["--set", "steps=3", "--seeds", "2", "--quiet", "--workers", "1", "--out", out]
    said = command(*asked, "--dry-run").out
    assert "2 of 2 cells pending.\n\nWhat the 2 pending cells will take" in said
    assert "Not measured: train of dino with" in said
    assert not out.exists()
    assert command(*asked, "--seeds", "1").code == 0
    said = command(*asked, "--dry-run").out
    assert "What the 1 pending cell will take" in said
    assert "By 1 comparable run on " in said
    assert re.search(r"^extract +0 s", said, re.MULTILINE), "the features lie in the store"
    assert "Not measured" not in said
    assert command(*asked).code == 0
    assert command(*asked, "--dry-run").out.splitlines()[-1] == "0 of 2 cells pending."
