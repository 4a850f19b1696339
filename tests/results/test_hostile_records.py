"""Records that fit their schema and not themselves, or that would steer the terminal they are shown in."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from board_records import write_runs
from msgspec.structs import replace

from uss_bench.errors import DataError
from uss_bench.results.files import read_arrays, read_record, record_files, write_record
from uss_bench.results.record import RunRecord

STEERS = ["\x1b[2J", "\x9b2J", "\x07", "\r", "\x7f", "\u202e", "\x00"]
KEEPS = ["a\nb\tc", "C:\\results\\u001b", "é ± 道路", "“\u2011”"]


@pytest.fixture
def record(tmp_path) -> Path:
    (path,) = write_runs(tmp_path, "alpha", seeds=(0,))
    return path


def rewrite(path: Path, **fields: object) -> None:
    """Write fields into a record's JSON as an editor would: `write_record` would refuse or mend them."""
    path.write_bytes(msgspec.json.encode(replace(read_record(path), **fields)))


@pytest.mark.parametrize("text", STEERS)
def test_nothing_that_a_record_says_steers_a_terminal_or_stands_in_a_board(record, command, tmp_path, text):
    word = f"a{text}b"
    sound = read_record(record)
    cell = replace(
        sound.cell,
        backbone=replace(sound.cell.backbone, name=word),
        method=replace(sound.cell.method, params={word: word}),
    )
    rewrite(
        record,
        cell=cell,
        id=cell.id,
        classes=[replace(one, name=word) for one in sound.classes],
        environment={"device": ["cpu", word]},
        notes=[word],
        labels_used=[word],
        command=word,
    )
    folder = ("--records", tmp_path)
    for arguments in (
        ("show", record),
        ("show", "--out", tmp_path),
        *(("board", "show", *folder, "--format", kind) for kind in ("text", "md", "latex", "csv")),
        ("board", "build", *folder, "--out", tmp_path / "boards"),
        ("audit", "records", *folder),
        ("audit", "effects", *folder),
        ("plot", "curves", *folder, "--out", tmp_path / "curves.svg"),
    ):
        said = command(*arguments)
        assert word not in said.out + said.err, arguments
        assert "did not foresee" not in said.err
    pages = [path.read_bytes().decode() for path in (tmp_path / "boards").rglob("*") if path.is_file()]
    assert len(pages) == 6
    assert not any(word in page for page in pages)


@pytest.mark.parametrize("text", KEEPS)
def test_text_that_only_looks_like_it_is_kept(record, text):
    rewrite(record, notes=[text])
    assert read_record(record).notes == [text]


def test_what_a_plugin_said_in_colors_is_shown_so_that_it_can_be_read(tmp_path, record, command):
    failed = replace(read_record(record), status="failed", reason="\x1b[8mno dog\x1b[0m\nTry another.")
    path, _ = write_record(tmp_path / "failed", failed, None, None)
    assert "no dog" in command("show", path).out


def row(record: RunRecord, **fields: object) -> dict[str, object]:
    return {"last": replace(record.last, raw=replace(record.last.raw, **fields))}


MISFITS = {
    "a class too few": (lambda one: row(one, iou=one.last.raw.iou[1:]), "iou of 'last' has"),
    "a class too many": (lambda one: row(one, recall=[*one.last.raw.recall, 1.0]), "recall of 'last' has"),
    "a cluster too few": (lambda one: row(one, class_of_cluster=[0]), "class_of_cluster of 'last' has 1"),
    "a class that is not there": (
        lambda one: row(one, class_of_cluster=[99] * one.clusters),
        "names a class that is not there",
    ),
    "two states that are one": (
        lambda one: {"selected": replace(one.last, crf=None)},
        "only one of them has scores after the CRF",
    ),
    "more than all": (lambda one: row(one, miou=1e7), r"`\$\.last\.raw\.miou`"),
    "less than none": (lambda one: row(one, accuracy=-1.0), r"`\$\.last\.raw\.accuracy`"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_scores_that_do_not_fit_the_record_are_refused(record, kind):
    fields, message = MISFITS[kind]
    rewrite(record, **fields(read_record(record)))
    with pytest.raises(DataError, match=f"{re.escape(str(record))}.*{message}"):
        read_record(record)


def refit(path: Path, **named: np.ndarray | None) -> None:
    """Change arrays of a record's npz, and its digest with them."""
    content = dict(np.load(path.with_suffix(".npz")))
    content |= {name.replace("__", "/"): value for name, value in named.items() if value is not None}
    for name in (name.replace("__", "/") for name, value in named.items() if value is None):
        del content[name]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    rewrite(path, arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


ARRAYS = {
    "no images": lambda arrays: {"counts__last__raw": arrays.counts["last", "raw"][:0]},
    "another number of clusters": lambda arrays: {"counts__last__raw": arrays.counts["last", "raw"][:, 1:]},
    "more pixels than there can be": lambda arrays: {
        "counts__last__raw": np.full_like(arrays.counts["last", "raw"], 2**60)
    },
    "no counts of scores that are stated": lambda arrays: {"counts__last__crf": None},
    "an unknown checkpoint": lambda arrays: {"counts__best__raw": arrays.counts["last", "raw"]},
    "a flat map": lambda arrays: {"maps__last__raw": np.zeros(8, np.uint8)},
    "a map too few": lambda arrays: {"maps__last__raw": arrays.maps["last", "raw"][:1]},
    "a cluster that is not there": lambda arrays: {"maps__last__raw": arrays.maps["last", "raw"] + 200},
    "a map without sides": lambda arrays: {"maps__last__raw": np.uint8(1)},
    "ids of two dimensions": lambda arrays: {"image_ids": np.array([arrays.image_ids])},
    "maps of floats": lambda arrays: {"maps__last__raw": arrays.maps["last", "raw"] * 0.5},
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_do_not_fit_the_record_are_refused(record, kind):
    refit(record, **ARRAYS[kind](read_arrays(record, read_record(record))))
    with pytest.raises(DataError, match="does not hold what a record's should"):
        read_arrays(record, read_record(record))


def test_one_such_record_does_not_cost_the_board_of_the_others(command, tmp_path):
    write_runs(tmp_path / "records", "alpha", seeds=(0, 1))
    (spoilt,) = write_runs(tmp_path / "records", "beta", seeds=(0,))
    rewrite(spoilt, **row(read_record(spoilt), miou=1e300))
    said = command("board", "show", "--records", tmp_path / "records")
    assert said.code == 0
    assert "alpha" in said.out
    assert str(spoilt) in said.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes under a name")
def test_a_pipe_under_a_records_name_is_no_record(tmp_path, record):
    os.mkfifo(tmp_path / "pipe.json")
    assert record_files(tmp_path) == [record]
