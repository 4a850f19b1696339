"""``uss-bench compare``: which settings are meant, what it says of them, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from board_records import write_runs
from msgspec.structs import replace
from PIL import Image
from simulation import Images, SimulatedMethod

from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import write_record
from uss_bench.results.record import (
    SCHEMA,
    BackboneId,
    Cell,
    CheckpointResult,
    ClassRow,
    DatasetId,
    MethodId,
    RunRecord,
)

CLASSES = ["sky", "road", "tree"]
CELL = Cell(
    method=MethodId(name="good", params={"dim": 64}, code="c0de"),
    dataset=DatasetId(name="tiny", fingerprint="f1", train_split="train", test_split="test"),
    backbone=BackboneId(name="vit", sha256="ab", feature_dtype="float16"),
    training=TrainingGeometry(),
    protocol="stego320@2",
    protocol_hash=get_protocol("stego320@2").hash,
    alpha=2.0,
    seed=0,
)
SKILLS = {"good": 0.9, "twins": 0.85, "poor": 0.3}


class Records:
    """Writes records of simulated methods on the same forty images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        method: str,
        seeds: int = 2,
        *,
        crf: bool = True,
        ids: str = "image",
        cell: Cell = CELL,
        **params,
    ) -> list[Path]:
        rng = np.random.default_rng(0)
        images = Images.draw(40, rng, classes=3)
        model = SimulatedMethod.draw(rng, skill=SKILLS[method], classes=3, clusters=3)
        name = MethodId(name=method, params={"dim": 64} | params, code="c0de")
        paths = []
        for seed in range(seeds):
            counts = {
                ("last", kind): model.counts(images, np.random.default_rng([seed, len(kind), len(method)]))
                for kind in ("raw", "crf")
                if crf or kind == "raw"
            }
            paths.append(self.write(replace(cell, method=name, seed=seed), counts, ids))
        return paths

    def write(self, cell: Cell, counts: dict, ids: str) -> Path:
        protocol = get_protocol(cell.protocol)
        rows = {kind: score_row(score_under(one, protocol)) for (_, kind), one in counts.items()}
        record = RunRecord(
            schema=SCHEMA,
            id=cell.id,
            status="done",
            cell=cell,
            protocol=protocol,
            classes=[ClassRow(name=one, color=(0, 0, 0)) for one in CLASSES],
            clusters=3,
            images=40,
            last=CheckpointResult(step=None, raw=rows["raw"], crf=rows.get("crf")),
        )
        arrays = Arrays([f"{ids}-{i}" for i in range(40)], counts, [], {})
        return write_record(self.folder, record, arrays, None)[0]


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path)


@pytest.fixture
def compare(command, tmp_path):
    return lambda *arguments: command("compare", *arguments, "--records", tmp_path)


def row(text: str, name: str) -> list[str]:
    """The cells of a table's first row of this name."""
    (line, *_) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return re.split(r"\s{2,}", re.sub(r"\s*…\s*", "…", line))


# --- What it says --------------------------------------------------------------------------------


def test_the_table_holds_scores_difference_interval_p_and_verdict(compare, records):
    records("good")
    records("poor")
    said = compare("good", "poor", "--dataset", "tiny")
    assert said.code == 0
    assert "good  −  poor" in said.out
    assert "tiny · vit · stego320@2 · 40 images · 2 and 2 seeds" in said.out
    for name in ("Acc raw", "mIoU raw", "Acc CRF", "mIoU CRF", *CLASSES):
        _, a, b, difference, interval, p, _ = row(said.out, name)
        assert float(a) - float(b) == pytest.approx(float(difference), abs=0.11)
        low, high = map(float, interval.split("…"))
        assert low < high
        assert p == "<0.001" or 0 <= float(p) <= 1
    assert "mIoU, raw: good is better." in said.out
    assert row(compare("poor", "good").out, "mIoU raw")[-1] == "worse"


def test_where_the_data_cannot_tell_it_says_what_would_be_needed(compare, records):
    records("good")
    records("twins")
    said = compare("good", "twins")
    assert row(said.out, "mIoU CRF")[-1] == "tied"
    assert "mIoU, CRF: the data cannot tell." in said.out
    assert "More images or more seeds alone would not either; both are needed." in said.out


def test_equal_scores_are_called_the_same(compare, records):
    (one,), (same,) = records("good", seeds=1), records("good", seeds=1, warmup=5)
    said = compare(one, same)
    assert "the data cannot tell" not in said.out
    assert "mIoU, raw: both score the same." in said.out


def test_one_refinement_can_be_asked_for_and_maps_made_elsewhere_have_one(compare, records):
    records("good", crf=False)
    records("poor")
    assert "CRF" not in compare("good", "poor").out.replace("after the CRF", "")
    assert "Acc CRF" not in compare("good", "poor", "--raw").out
    refused = compare("good", "poor", "--crf")
    assert refused.code == 1
    assert "has no crf counts" in refused.err


def test_with_one_seed_a_side_only_images_are_said_to_be_needed(compare, records):
    records("good", 1)
    records("twins", 1)
    said = compare("good", "twins")
    assert "A and B have one seed" in said.out
    (needed,) = re.findall(r"mIoU, raw: .* would need about ([\d,]+) images\.", said.out)
    assert int(needed.replace(",", "")) > 40


def test_the_plot_is_a_picture_with_every_class(compare, records, tmp_path):
    records("good")
    records("poor")
    plot = tmp_path / "plot.png"
    said = compare("good", "poor", "--plot", plot)
    assert said.code == 0
    assert str(plot) in said.out
    with Image.open(plot) as picture:
        assert picture.width > 300
        assert len(np.unique(np.array(picture.convert("L")))) > 20
    refused = compare("good", "poor", "--plot", tmp_path / "plot.doc")
    assert refused.code == 2
    assert not (tmp_path / "plot.doc").exists()


# --- Which settings are meant --------------------------------------------------------------------


def test_records_are_named_by_id_or_path_and_two_seeds_may_be_compared(compare, records):
    first, second = records("good")
    said = compare(first.stem.rpartition("-")[2], second)
    assert said.code == 0
    assert "good seed 0  −  good seed 1" in said.out


def test_an_ambiguous_name_lists_the_labels_and_a_label_is_enough(compare, records):
    records("good", dim=32)
    records("good")
    records("poor")
    refused = compare("good", "poor")
    assert refused.code == 2
    assert "'good' fits 2 configurations" in refused.err
    assert "'good (dim=32)'" in refused.err
    assert compare("good (dim=32)", "poor").code == 0


def test_the_pair_of_one_table_and_backbone_is_meant(compare, records):
    records("good")
    records("poor")
    small = replace(CELL, protocol="stego322@2", protocol_hash=get_protocol("stego322@2").hash)
    records("good", cell=small)
    assert "stego320@2" in compare("good", "poor").out
    records("poor", cell=small)
    refused = compare("good", "poor")
    assert refused.code == 2
    assert "--protocol" in refused.err
    assert "stego322@2" in compare("good", "poor", "--protocol", "stego322@2").out


def test_a_method_without_backbone_fits_every_backbone(compare, records):
    records("good")
    records("poor", cell=replace(CELL, backbone=BackboneId(name="none", sha256="", feature_dtype="float32")))
    assert compare("good", "poor", "--backbone", "vit").code == 0


# --- What it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("protocol", replace(CELL, protocol="stego322@2", protocol_hash=get_protocol("stego322@2").hash)),
        ("fingerprint", replace(CELL, dataset=replace(CELL.dataset, fingerprint="f2"))),
        ("limit", replace(CELL, dataset=replace(CELL.dataset, limit=40))),
        ("train split", replace(CELL, dataset=replace(CELL.dataset, train_split="all"))),
    ],
)
def test_different_tables_are_refused_and_the_difference_named(compare, records, field, other):
    records("good")
    records("poor", cell=other)
    refused = compare("good", "poor")
    assert refused.code == 2
    assert f"not of one table: {field} is" in refused.err


def test_other_images_under_the_same_fingerprint_are_refused(compare, records):
    records("good")
    records("poor", ids="other")
    refused = compare("good", "poor")
    assert refused.code == 1
    assert "same images" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("god", "poor"), "Did you mean 'good'"),
        (("good", "good"), "the same records"),
        (("good", "poor", "--dataset", "tony"), "Did you mean 'tiny'"),
    ],
)
def test_wrong_names_are_told_with_the_right_ones(compare, records, arguments, message):
    records("good")
    records("poor")
    refused = compare(*arguments)
    assert refused.code == 2
    assert message in refused.err


def test_a_folder_without_records_is_told_of(compare):
    refused = compare("good", "poor")
    assert refused.code == 2
    assert "no scored records" in refused.err


def test_a_damaged_record_is_skipped_and_told_of(compare, records, tmp_path):
    records("good")
    records("poor")
    (tmp_path / "tiny" / "torn.json").write_text("{")
    said = compare("good", "poor")
    assert said.code == 0
    assert "torn.json" in said.err


@pytest.fixture
def three(tmp_path):
    for method, skill in (("alpha", 0.6), ("beta", 0.4), ("gamma", 0.2)):
        write_runs(tmp_path, method, skill, seeds=(0, 1))
    return tmp_path


def test_all_methods_of_a_table_are_compared_with_each_other(command, three):
    said = command("compare", "--all", "--records", three, "--label", "alpha=Alpha One")
    assert said.code == 0, said.err
    assert "1 Alpha One" in said.out
    assert "3 pairs (Holm)" in said.out


def test_pairs_are_printed_as_data_and_drawn(command, three, tmp_path):
    figure = tmp_path / "pairs.png"
    said = command("compare", "--all", "--records", three, "--format", "csv", "--plot", figure)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    pairs = {(row["a"], row["b"]) for row in rows}
    assert pairs == {("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")}
    assert all(row["verdict"] == "better" for row in rows)
    assert figure.is_file()


def test_two_sides_are_printed_as_json(command, three):
    said = command("compare", "alpha", "beta", "--records", three, "--format", "json", "--crf")
    rows = json.loads(said.out)
    assert [row["score"] for row in rows] == ["accuracy", "miou", "iou", "iou", "iou"]
    assert rows[1]["low"] < rows[1]["difference"] < rows[1]["high"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["alpha"], "Two configurations are needed"),
        ([], "Two configurations are needed"),
        (["alpha", "beta", "--all"], "and not both"),
        (["alpha", "beta", "--label", "Alpha"], "METHOD=NAME"),
    ],
)
def test_what_is_to_be_compared_must_be_clear(command, three, words, message):
    said = command("compare", *words, "--records", three)
    assert said.code == 2
    assert message in said.err
