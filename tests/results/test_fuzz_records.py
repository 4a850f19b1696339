"""Spoilt records and arrays: refused, also when a digest was made to fit."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from board_records import write_runs
from fuzzing import FUZZ, ignore_warnings, reading, spoilt, survives
from hypothesis import given
from hypothesis import strategies as st

from uss_bench.errors import DataError
from uss_bench.files import arrays
from uss_bench.files.arrays import read_npy, read_npz
from uss_bench.results.files import read_arrays, read_record

pytestmark = ignore_warnings


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_runs(tmp_path_factory.mktemp("records"), "alpha", seeds=(0,), params={"deep": [1, {}]})
    return path


@FUZZ
@given(st.data())
def test_records(record: Path, data: st.DataObject) -> None:
    survives(read_record, data.draw(spoilt([record.read_bytes()])), "record.json")


@FUZZ
@given(st.data())
def test_arrays_of_records_whose_digest_is_made_to_fit(record: Path, data: st.DataObject) -> None:
    content = data.draw(spoilt([record.with_suffix(".npz").read_bytes()]))
    fitting = msgspec.structs.replace(read_record(record), arrays_sha256=hashlib.sha256(content).hexdigest())
    survives(lambda path: read_arrays(path, fitting), content, "record.npz")


def refit(record: Path, folder: Path, **named: Any) -> tuple[Path, Any]:
    """Write an npz of these arrays, and return its path with a record that has its digest."""
    path = folder / "record.npz"
    np.savez_compressed(path, **named)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, msgspec.structs.replace(read_record(record), arrays_sha256=digest)


IDS = {"image_ids": np.array(["a", "b"]), "map_ids": np.array(["a"])}
MISFITS = {
    "an unknown group": {"weights/last/raw": np.zeros(3)},
    "a name without parts": {"counts": np.zeros(3)},
    "counts of one dimension": {"counts/last/raw": np.zeros(3, int)},
    "counts of other images": {"counts/last/raw": np.zeros((5, 3, 3), int)},
    "counts of other classes": {"counts/last/raw": np.zeros((2, 3, 9), int)},
    "counts that are no whole numbers": {"counts/last/raw": np.full((2, 3, 3), np.nan)},
    "negative counts": {"counts/last/raw": np.full((2, 3, 3), -1)},
    "ids that are one number": {"image_ids": np.array(3)},
}


@pytest.mark.parametrize("kind", MISFITS)
def test_arrays_that_are_sound_and_do_not_fit_are_refused(tmp_path, record, kind) -> None:
    path, fitting = refit(record, tmp_path, **IDS | MISFITS[kind])
    with pytest.raises(DataError, match="does not hold what a record's should"):
        read_arrays(path, fitting)


def test_an_npz_that_unpacks_to_far_more_than_it_is_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(arrays, "_SLACK", 1 << 20)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, zeros=np.zeros(8 << 20, np.uint8))
    with pytest.raises(ValueError, match="as a bomb does"):
        read_npz(buffer.getvalue())


@FUZZ
@given(st.data())
def test_npy(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(12).reshape(3, 4))
    content = data.draw(spoilt([buffer.getvalue()]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        path.write_bytes(content)
        with reading():
            assert isinstance(read_npy(path), np.ndarray)


def test_json_that_is_nested_by_the_thousand_is_no_record(tmp_path, record) -> None:
    text = record.read_text().replace('"deep": [', '"deep": [' + "[" * 100_000, 1)
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DataError, match="not a run record"):
        read_record(tmp_path / "record.json")
