"""What stands in leaderboards/records is whole, and its scores are those of its counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.results.files import read_arrays, read_record, record_files

ROOT = Path(__file__).parents[2] / "leaderboards" / "records"
RECORDS = record_files(ROOT)


def test_there_are_records():
    assert RECORDS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_committed_record_is_whole_and_its_scores_follow_from_its_counts(path):
    record = read_record(path)
    arrays = read_arrays(path, record)
    assert path.parent.name == record.cell.dataset.name
    assert len(arrays.image_ids) == record.images
    refinements = ("raw",) if record.protocol.crf is None else ("raw", "crf")
    for checkpoint, result in (("last", record.last), ("selected", record.selected)):
        for refinement in refinements:
            counts = arrays.counts[checkpoint, refinement]
            assert counts.shape == (record.images, record.clusters, len(record.classes))
            assert getattr(result, refinement) == score_row(score_under(counts, record.protocol))


def test_no_picture_and_no_weights_are_committed_with_them():
    kept = {path.suffix for path in ROOT.rglob("*") if path.is_file() and path.name != ".gitignore"}
    ignored = {".png", ".safetensors"}  # made by runs, and kept out by the .gitignore
    assert kept - ignored == {".json", ".npz", ".md", ".toml"}
    assert all(f"*{suffix}" in (ROOT / ".gitignore").read_text() for suffix in ignored)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_committed_record_names_no_path_of_a_machine(path):
    record = read_record(path)
    assert not re.search(r"(^|[\s'\"=])/\w", record.command)
    assert not any(isinstance(value, str) and value.startswith("/") for value in record.environment.values())
