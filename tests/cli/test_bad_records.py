"""A record that cannot be read or holds no score stops no command: it is named, and the others are used."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from board_records import write_runs
from msgspec.structs import replace

from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.results.files import read_record


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def repack(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a record's arrays, and its digest with them."""
    arrays = dict(np.load(path.with_suffix(".npz")))
    change(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(msgspec.json.encode(replace(read_record(path), arrays_sha256=digest)))


def make_void(path: Path) -> None:
    """Make it the record of a run on test labels that are all void."""

    def clear(arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            if name.startswith("counts/"):
                arrays[name] = np.zeros_like(arrays[name])

    repack(path, clear)
    record = read_record(path)
    counts = np.zeros((40, 3, 3), dtype=np.int64)
    row = score_row(score_under(counts, record.protocol))
    assert row.miou is None
    last = replace(record.last, raw=row, crf=row)
    path.write_bytes(msgspec.json.encode(replace(record, last=last)))


def make_other_images(path: Path) -> None:
    repack(path, lambda arrays: arrays.update(image_ids=arrays["image_ids"][::-1].copy()))


JSON: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "not JSON": lambda path: path.write_bytes(b"\x89PNG\r\n"),
    "another JSON": lambda path: path.write_text("{}"),
    "of another schema": lambda path: edit(path, '"schema": ', '"schema": 7'),
    "edited": lambda path: edit(path, '"seed": 1', '"seed": 9'),
    "a null where a number belongs": lambda path: edit(path, '"seconds": 11', '"seconds": null, "x": 11'),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}
VOID = {"without a label": make_void}
ARRAYS: dict[str, Callable[[Path], object]] = {
    "without arrays": lambda path: path.with_suffix(".npz").unlink(),
    "with arrays cut short": lambda path: path.with_suffix(".npz").write_bytes(b"PK"),
    "with arrays of others": lambda path: repack(path, lambda arrays: arrays.update(image_ids=np.zeros(3))),
    "with other images than the other seeds": make_other_images,
}
KINDS = JSON | VOID | ARRAYS


def shown(*words: object) -> Callable[[Path, Path], Sequence[object]]:
    return lambda records, out: [*words, "--records", records]


def drawn(*words: object) -> Callable[[Path, Path], Sequence[object]]:
    return lambda records, out: ["plot", *words, "--records", records, "--out", out / "figure.svg"]


COMMANDS: dict[str, tuple[Callable[[Path, Path], Sequence[object]], dict[str, object]]] = {
    "show": (lambda records, out: ["show", "--out", records], JSON),
    "board show": (shown("board", "show"), KINDS),
    "board show csv": (shown("board", "show", "--format", "csv"), KINDS),
    "board build": (lambda records, out: ["board", "build", "--records", records, "--out", out], KINDS),
    "compare": (shown("compare", "alpha", "beta"), KINDS),
    "audit effects": (shown("audit", "effects"), KINDS),
    "audit protocols": (shown("audit", "protocols", "stego320@1", "stego322@1"), KINDS),
    "audit records": (shown("audit", "records"), JSON | ARRAYS),
    "merge": (
        lambda records, out: ["merge", records, "--out", out],
        JSON | {kind: ARRAYS[kind] for kind in ARRAYS if "other seeds" not in kind},
    ),
    "plot classes": (drawn("classes"), JSON | VOID),
    "plot overview": (drawn("overview"), JSON | VOID),
    "plot cost": (drawn("cost"), JSON | VOID),
    "plot confusion": (drawn("confusion", "--method", "alpha"), KINDS),
    "errors": (shown("errors", "alpha", "--dataset", "town"), KINDS),
}
"""By its name: its words, and the kinds of bad records that it must name. The rest it uses, or never sees."""
REFUSES = {"audit records": 1, "merge": 1}
"""What ends with another exit code than 0 where anything is left out."""


@pytest.fixture
def records(tmp_path) -> Path:
    folder = tmp_path / "records"
    for method, skill in (("alpha", 0.6), ("beta", 0.5)):
        write_runs(folder, method, skill, curves={"loss": [(1, 2.0), (2, 1.0)]})
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_record_is_named_and_the_others_are_used(command, records, tmp_path, name, kind):
    words, named = COMMANDS[name]
    bad = next(path for path in (records / "town").glob("alpha-s1-*.json"))
    KINDS[kind](bad)
    said = command(*words(records, tmp_path / "out"))
    assert "did not foresee" not in said.err
    assert said.code == (REFUSES.get(name, 0) if kind in named else said.code), said.err
    if kind in named:
        assert bad.stem in said.out + said.err
    assert said.out or (tmp_path / "out").exists(), said.err
    if name in ("show", "board show", "board show csv", "compare"):
        assert "beta" in said.out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_read_is_named(command, records, tmp_path, monkeypatch, name):
    """By a colleague's umask, for one; the tests may run as root, for whom no folder is closed."""
    closed = records / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path=".", *arguments):
        if Path(os.fsdecode(path) if not isinstance(path, int) else ".") == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path, *arguments)

    monkeypatch.setattr(os, "scandir", refusing)
    words, _ = COMMANDS[name]
    said = command(*words(records, tmp_path / "out"))
    assert said.code == REFUSES.get(name, 0), said.err
    assert f"{closed}" in said.out + said.err


def test_a_record_that_no_figure_can_be_drawn_of_says_why(command, records, tmp_path):
    for path in (records / "town").glob("alpha-*.npz"):
        path.unlink()
    out = tmp_path / "figure.svg"
    said = command("plot", "confusion", "--method", "alpha", "--records", records, "--out", out)
    assert said.code == 2
    assert "No such file" in said.err
    said = command("compare", "alpha", "beta", "--records", records)
    assert said.code == 1
    assert "No such file" in said.err


def test_records_without_a_score_alone_are_no_board(command, tmp_path):
    (path,) = write_runs(tmp_path / "records", "alpha", seeds=(0,))
    make_void(path)
    for words in (["board", "show"], ["board", "build", "--out", tmp_path / "boards"]):
        said = command(*words, "--records", tmp_path / "records")
        assert said.code == 2
        assert path.name in said.err
    assert command("show", "--out", tmp_path / "records").code == 0
    assert command("show", path).code == 0
    said = command("report", path, "--out", tmp_path / "page.html")
    assert said.code == 2
    assert "no pixel of its test images has a label" in said.err
