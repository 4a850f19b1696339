"""Records and provenance: what is written is read back, and what was changed is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from uss_bench.errors import DataError
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import (
    find_record,
    read_arrays,
    read_record,
    read_state,
    record_path,
    write_record,
)
from uss_bench.results.record import (
    SCHEMA,
    BackboneId,
    Candidate,
    Cell,
    CheckpointResult,
    ClassRow,
    DatasetId,
    MethodId,
    Phase,
    RunRecord,
    ScoreRow,
)

CELL = Cell(
    method=MethodId(name="smooseg", params={"dim": 64, "tau": 0.1, "standardize": False}, code="c0de"),
    dataset=DatasetId(name="tiny", fingerprint="f1", train_split="train", test_split="test", limit=None),
    backbone=BackboneId(name="vit", sha256="ab12", feature_dtype="float16", positions="dino"),
    training=TrainingGeometry(crops="five"),
    protocol="stego320@2",
    protocol_hash=get_protocol("stego320@2").hash,
    alpha=2.0,
    seed=0,
)
ROW = ScoreRow(
    accuracy=81.25,
    miou=60.5,
    iou=[60.5, None],
    precision=[70.0, None],
    recall=[80.0, None],
    class_of_cluster=[0, -1],
    clusters_used=2,
    pixels=99,
)


def a_record(cell: Cell = CELL, **fields) -> RunRecord:
    result = CheckpointResult(step=None, raw=ROW, crf=None)
    given = {
        "status": "done",
        "classes": [ClassRow(name="sky", color=(1, 2, 3)), ClassRow(name="sea", color=(4, 5, 6))],
        "clusters": 2,
        "last": result,
        "selected": replace(result, step=400),
        "candidates": [Candidate(step=400, accuracy=1.5, miou=2.5)],
        "curves": {"data": [(1, 3.25), (50, 0.1)]},
        "phases": {"train": Phase(seconds=1.5, peak_bytes=2**40)},
    } | fields
    return RunRecord(schema=SCHEMA, id=cell.id, cell=cell, protocol=get_protocol("stego320@2"), **given)


def some_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    keys = [("last", "raw"), ("last", "crf"), ("selected", "raw")]
    counts = {key: rng.integers(0, 9, (3, 2, 2)) for key in keys}
    maps = {("last", kind): rng.integers(0, 2, (2, 8, 8)).astype(np.uint8) for kind in ("raw", "crf")}
    return Arrays(image_ids=["a", "b/c", "ä"], counts=counts, map_ids=["a", "ä"], maps=maps)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- Round trip ----------------------------------------------------------------------------------


def test_a_record_its_arrays_and_its_state_are_read_back_as_they_were(tmp_path):
    arrays = some_arrays()
    path, record = write_record(tmp_path, a_record(), arrays, b"state")
    assert path == record_path(tmp_path, CELL) == tmp_path / "tiny" / f"smooseg-s0-{CELL.id[:12]}.json"
    assert sorted(files(tmp_path)) == sorted(f"{path.stem}.{end}" for end in ("json", "npz", "safetensors"))
    assert read_record(path) == record
    assert replace(record, arrays_sha256="", state_sha256="") == a_record()
    assert read_state(path, record) == b"state"

    found = read_arrays(path, record)
    assert (found.image_ids, found.map_ids) == (arrays.image_ids, arrays.map_ids)
    for group in ("counts", "maps"):
        written, read = getattr(arrays, group), getattr(found, group)
        assert written.keys() == read.keys()
        for key, value in written.items():
            assert read[key].dtype == value.dtype
            np.testing.assert_array_equal(read[key], value)


def test_a_failed_run_leaves_a_record_of_another_name(tmp_path):
    path, _ = write_record(tmp_path, a_record(status="failed", reason="no reason"), None, None)
    assert path.name == f"smooseg-s0-{CELL.id[:12]}.failed.json"
    assert read_record(path).reason == "no reason"
    assert not record_path(tmp_path, CELL).exists()


# --- Identity ------------------------------------------------------------------------------------

CHANGES = {
    "method.name": "other",
    "method.params": {"dim": 64, "tau": 0.2, "standardize": False},
    "method.code": "c0df",
    "dataset.name": "other",
    "dataset.fingerprint": "f2",
    "dataset.train_split": "all",
    "dataset.test_split": "val",
    "dataset.limit": 5,
    "backbone.name": "other",
    "backbone.sha256": "ab13",
    "backbone.feature_dtype": "float32",
    "backbone.positions": "timm",
    "training.side": 256,
    "training.width": 320,
    "training.resize": "bilinear",
    "training.fit": "squash",
    "training.crops": "none",
    "training.crop_ratio": 0.7,
    "training.crop_jpeg": True,
    "protocol": "stego320@2[flip=false]",
    "protocol_hash": "0",
    "alpha": 3.0,
    "seed": 1,
    "assets": {"aux:depth": "f00d"},
}
BESIDE = {"training.width": {"fit": "squash"}}
"""What a change asks for beside it."""


def changed(cell: Cell, field: str) -> Cell:
    group, _, name = field.rpartition(".")
    if not group:
        return replace(cell, **{name: CHANGES[field]})
    changes = {name: CHANGES[field], **BESIDE.get(field, {})}
    return replace(cell, **{group: replace(getattr(cell, group), **changes)})


def test_the_changes_below_cover_every_input():
    inputs = set()
    for field in Cell.__struct_fields__:
        part = getattr(CELL, field)
        inner = part.__struct_fields__ if isinstance(part, msgspec.Struct) else ()
        inputs |= {f"{field}.{name}" for name in inner} or {field}
    assert inputs == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_the_id_changes_with_every_input(field):
    assert changed(CELL, field).id != CELL.id


def test_the_id_is_a_digest_of_the_inputs_that_no_order_or_machine_changes():
    shuffled = replace(CELL.method, params=dict(reversed(CELL.method.params.items())))
    assert replace(CELL, method=shuffled).id == CELL.id
    inputs = msgspec.to_builtins(CELL) | {"training": {"crops": "five"}}
    del inputs["assets"]
    text = msgspec.json.encode(inputs, order="sorted")
    assert CELL.id == hashlib.sha256(text).hexdigest()[:16]


def test_the_id_never_changes_between_releases():
    assert CELL.id == "065a5fb1a384cbec"


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", CHANGES)
def test_a_record_with_an_edited_input_is_refused(tmp_path, field):
    path, record = write_record(tmp_path, a_record(), None, None)
    path.write_bytes(msgspec.json.encode(replace(record, cell=changed(CELL, field))))
    with pytest.raises(DataError, match="it was edited"):
        read_record(path)


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ("cell", "color", 1, r"unknown field `color` - at `\$\.cell`"),
        ("cell", "seed", "0", r"Expected `int`, got `str` - at `\$\.cell\.seed`"),
        ("protocol", "flip", 1, r"Expected `bool`, got `int` - at `\$\.protocol\.flip`"),
        ("last", "raw", None, r"got `null` - at `\$\.last\.raw`"),
    ],
)
def test_a_wrong_key_or_type_is_named_by_its_path(tmp_path, place, key, value, message):
    path, _ = write_record(tmp_path, a_record(), None, None)
    content = msgspec.json.decode(path.read_bytes())
    content[place][key] = value
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(DataError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"id": "\xff"}'])
def test_what_is_no_record_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a run record"):
        read_record(path)


def test_another_schema_and_a_missing_file_are_refused(tmp_path):
    path, record = write_record(tmp_path, a_record(), None, None)
    path.write_bytes(msgspec.json.encode(replace(record, schema=SCHEMA + 1)))
    with pytest.raises(DataError, match=f"schema {SCHEMA + 1}"):
        read_record(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_record(tmp_path / "none.json")


@pytest.mark.parametrize(("suffix", "read"), [(".npz", read_arrays), (".safetensors", read_state)])
def test_damaged_and_missing_companions_are_refused(tmp_path, suffix, read):
    path, record = write_record(tmp_path, a_record(), some_arrays(), b"some state")
    companion = path.with_suffix(suffix)
    content = bytearray(companion.read_bytes())
    content[len(content) // 2] ^= 1
    companion.write_bytes(content)
    with pytest.raises(DataError, match=f"{companion.name} is damaged"):
        read(path, record)
    companion.unlink()
    with pytest.raises(DataError, match=f"{companion.name}.* cannot be read"):
        read(path, record)


def test_pickled_objects_are_never_loaded(tmp_path):
    path, record = write_record(tmp_path, a_record(), some_arrays(), None)
    objects = np.array([{"an": "object"}], dtype=object)
    np.savez(path.with_suffix(".npz"), image_ids=objects, map_ids=objects)
    digest = hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=path.stem):
        read_arrays(path, replace(record, arrays_sha256=digest))


# --- Writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, nth):
    sound, writes = os.fsync, iter(range(1, 4))

    def fill_up(descriptor: int) -> None:
        if next(writes) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        sound(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(DataError, match="No space left on device"):
        write_record(tmp_path, a_record(), some_arrays(), b"state")
    assert files(tmp_path) == {}


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        write_record(tmp_path / "out", a_record(), None, None)


# --- Finding -------------------------------------------------------------------------------------


def test_a_record_is_found_by_its_path_or_the_beginning_of_its_id(tmp_path):
    path, _ = write_record(tmp_path, a_record(), some_arrays(), None)
    other, _ = write_record(tmp_path / "more", a_record(changed(CELL, "seed")), None, None)
    for length in (6, 12, 16):
        assert find_record(CELL.id[:length], [tmp_path]) == path
    assert find_record(CELL.id[:8].upper(), [tmp_path]) == path
    assert find_record(str(other), []) == other


def test_a_failed_record_is_found_too(tmp_path):
    path, _ = write_record(tmp_path, a_record(status="failed"), None, None)
    assert find_record(CELL.id[:12], [tmp_path]) == path


def test_an_ambiguous_and_an_unknown_id_are_errors(tmp_path):
    cells = [replace(CELL, seed=seed) for seed in range(40)]
    twins = next((a, b) for a in cells for b in cells if a.seed < b.seed and a.id[:1] == b.id[:1])
    for cell in twins:
        write_record(tmp_path, a_record(cell), None, None)
    with pytest.raises(DataError, match=f"'{twins[0].id[:1]}' fits 2 records: smooseg-s"):
        find_record(twins[0].id[:1], [tmp_path])
    with pytest.raises(DataError, match="no record 'ffff-none'"):
        find_record("ffff-none", [tmp_path])


def test_a_whole_id_that_differs_in_its_end_is_not_found(tmp_path):
    write_record(tmp_path, a_record(), None, None)
    wrong = CELL.id[:-1] + ("0" if CELL.id[-1] != "0" else "1")
    with pytest.raises(DataError, match="no record"):
        find_record(wrong, [tmp_path])
