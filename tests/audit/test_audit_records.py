"""The audit of records and claims: what is whole passes, and every kind of damage is found and named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from plot_records import a_cell, put

from uss_bench.audit.claim_checks import audit_claims
from uss_bench.audit.record_checks import ENVIRONMENT
from uss_bench.audit.table_checks import audit_records
from uss_bench.claims import Claim
from uss_bench.results.files import read_record
from uss_bench.results.provenance import environment
from uss_bench.results.record import EXTERNAL, Candidate, Cell, ClassRow

COUNTS = np.array([[[30, 5], [4, 20]], [[10, 2], [0, 40]]])
CODE = {"ds2dl": "c0de", "stego": "c0de"}
WHOLE = {
    "environment": dict.fromkeys(ENVIRONMENT, "known"),
    "candidates": [Candidate(step=10, accuracy=1.0, miou=1.5), Candidate(step=None, accuracy=3.0, miou=2.0)],
}
MAPS = np.zeros((1, 4, 4), dtype=np.uint8)


def a_record(folder: Path, method: str = "ds2dl", counts: np.ndarray = COUNTS, **fields) -> Path:
    cell = fields.pop("cell", None) or a_cell(method)
    return put(folder, cell, counts, **{**WHOLE, "maps": MAPS, **fields})


def rewrite(path: Path, **fields) -> None:
    """Change a record as a careless hand would: its id stays that of its cell."""
    record = replace(read_record(path), **fields)
    path.write_bytes(msgspec.json.encode(record))


def rewrite_counts(path: Path, change) -> None:
    """Change an npz and its digest, which then cannot tell."""
    npz = path.with_suffix(".npz")
    with np.load(npz) as file:
        named = dict(file)
    change(named)
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    npz.write_bytes(buffer.getvalue())
    rewrite(path, arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def now(**codes: str) -> Callable[[Cell], str | None]:
    """The code that methods have, by their names."""
    return lambda cell: codes.get(cell.method.name)


def found(folder: Path, **code: str):
    _, findings = audit_records([folder], now(**(code or CODE)))
    return [(one.weight, one.path.name, one.what) for one in findings]


def test_what_is_whole_passes(tmp_path):
    a_record(tmp_path)
    a_record(tmp_path, "stego", COUNTS[:, ::-1])
    assert audit_records([tmp_path], now(**CODE)) == (2, [])


def test_the_environment_is_what_a_run_writes():
    assert [name for name in environment("cpu") if name != "lock"] == [*ENVIRONMENT]


def spoil_scores(path: Path) -> None:
    record = read_record(path)
    row = replace(record.last.crf, miou=record.last.crf.miou + 0.1)
    rewrite(path, last=replace(record.last, crf=row))


def spoil_one_class(path: Path) -> None:
    record = read_record(path)
    row = replace(record.last.raw, recall=[record.last.raw.recall[0] + 0.1, *record.last.raw.recall[1:]])
    rewrite(path, last=replace(record.last, raw=row))


def spoil_matching(path: Path) -> None:
    record = read_record(path)
    rewrite(path, last=replace(record.last, raw=replace(record.last.raw, class_of_cluster=[1, 0])))


def spoil_protocol(path: Path) -> None:
    record = read_record(path)
    rewrite(path, protocol=replace(record.protocol, flip=False))


def spoil_selected(path: Path) -> None:
    rewrite(path, selected=replace(read_record(path).selected, step=10))


def spoil_step(path: Path) -> None:
    rewrite(path, selected=replace(read_record(path).selected, step=11))


def spoil_images(path: Path) -> None:
    rewrite(path, images=3)


DAMAGE = {
    "edited": (lambda path: rewrite(path, id="0" * 16), "it was edited"),
    "schema": (lambda path: rewrite(path, schema=99), "schema 99"),
    "not JSON": (lambda path: path.write_bytes(b"{"), "not a run record"),
    "npz damaged": (lambda path: path.with_suffix(".npz").write_bytes(b"x"), "digest is not the one"),
    "npz missing": (lambda path: path.with_suffix(".npz").unlink(), "cannot be read"),
    "scores": (spoil_scores, "last crf: miou is"),
    "class score": (spoil_one_class, "last raw: recall of class 0 is"),
    "matching": (spoil_matching, "last raw: class_of_cluster"),
    "protocol": (spoil_protocol, "fields give the hash"),
    "not the best": (spoil_selected, "the best candidate 2.00"),
    "no candidate": (spoil_step, "step 11 is not a candidate"),
    "nothing offered": (
        lambda path: (rewrite(path, candidates=[]), spoil_selected(path)),
        "where none was offered",
    ),
    "images": (spoil_images, "2 image ids in the npz, 3 images"),
    "clusters": (lambda path: rewrite(path, clusters=5), "has 2 for 5 clusters"),
    "environment": (lambda path: rewrite(path, environment={"git": "a"}), "the environment lacks uss-bench"),
    "date": (lambda path: rewrite(path, created="yesterday"), "not a date of creation"),
    "name": (lambda path: path.rename(path.with_name("other.json")), "its inputs give the name"),
    "counts": (
        lambda path: rewrite_counts(path, lambda named: named.pop("counts/last/crf")),
        "it lacks the counts of 'last/crf'",
    ),
    "maps": (
        lambda path: rewrite_counts(path, lambda named: named.update({"maps/last/raw": MAPS + 7})),
        "a cluster beyond 2",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_said(tmp_path, kind):
    spoil, message = DAMAGE[kind]
    path = a_record(tmp_path)
    spoil(path)
    wrong = [what for weight, _, what in found(tmp_path) if weight == "wrong"]
    assert any(message in what for what in wrong), wrong


def test_stale_code_is_wrong_and_an_unknown_method_is_a_note(tmp_path):
    a_record(tmp_path)
    ((weight, _, what),) = found(tmp_path, ds2dl="c0df")
    assert (weight, "stale" in what) == ("wrong", True)
    _, (told,) = audit_records([tmp_path], now(ds2dl="c0df"), known_stale=["ds2dl"])
    assert (told.weight, "stale" in told.what) == ("note", True), "known to be made again"
    _, (told,) = audit_records([tmp_path], now(ds2dl="c0df"), known_stale=["stego"])
    assert told.weight == "wrong"
    ((weight, _, what),) = found(tmp_path, other="c0df")
    assert (weight, "not installed" in what) == ("note", True)
    elsewhere = tmp_path / "elsewhere"
    cell = a_cell("ds2dl")
    a_record(elsewhere, cell=replace(cell, method=replace(cell.method, code=f"{EXTERNAL}c0de")))
    assert found(elsewhere, ds2dl="c0df") == []


def test_a_list_of_stale_records_makes_them_notes_until_they_were_made_again(tmp_path):
    path = a_record(tmp_path)
    other = a_record(tmp_path, "stego")
    names = [f"tiny/{path.stem}", f"tiny/{other.stem}", "tiny/gone-s0-0123456789ab"]
    (tmp_path / "stale.toml").write_text(f'reason = "schema 2"\nrecords = {names}\n')
    said = found(tmp_path, ds2dl="c0df", stego="c0de")
    assert [name for weight, name, _ in said if weight == "note"] == [path.name]
    assert {what for weight, _, what in said if weight == "wrong"} == {
        f"no record tiny/{other.stem} is stale",
        "no record tiny/gone-s0-0123456789ab is stale",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels_used": ["tuning"]}, "labels were used for tuning"),
        ({"command": ""}, "no command"),
        ({"environment": dict.fromkeys(ENVIRONMENT, "ab12+changes")}, "changes that no commit has"),
        ({"environment": dict.fromkeys(ENVIRONMENT, "")}, "no commit is recorded"),
    ],
)
def test_what_is_for_the_reader_to_weigh_is_a_note(tmp_path, fields, message):
    a_record(tmp_path, **fields)
    ((weight, _, what),) = found(tmp_path)
    assert (weight, message in what) == ("note", True)


# --- Records against each other ------------------------------------------------------------------


def other_pixels(counts: np.ndarray) -> np.ndarray:
    changed = counts.copy()
    changed[1, 1, 0] += 1
    return changed


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"counts": other_pixels(COUNTS)}, "image 'image-1' has 11 pixels of class 0, 10 in"),
        ({"counts": COUNTS[:1]}, "its images are not those of"),
        (
            {"classes": [ClassRow(name=name, color=(0, 0, 0)) for name in "ab"], "seeds": 2},
            "its classes are not those",
        ),
        (
            {"cell": replace(a_cell("stego"), backbone=replace(a_cell().backbone, sha256="0"))},
            "other weights",
        ),
    ],
    ids=["pixels", "images", "classes", "weights"],
)
def test_what_a_table_must_share_is_compared(tmp_path, other, message):
    other = dict(other)
    for seed in range(other.pop("seeds", 1)):
        a_record(tmp_path, cell=a_cell(seed=seed))
    a_record(tmp_path, "stego", **other)
    ((weight, name, what),) = found(tmp_path)
    assert (weight, name.partition("-")[0]) == ("wrong", "stego")
    assert message in what


def test_other_ground_truth_is_not_compared_with_this_one(tmp_path):
    a_record(tmp_path)
    a_record(tmp_path, cell=a_cell("stego", protocol="stego322@2"), counts=other_pixels(COUNTS))
    assert found(tmp_path) == []
    a_record(tmp_path, cell=a_cell("stego", fingerprint="f2"), counts=other_pixels(COUNTS))
    ((weight, _, what),) = found(tmp_path)
    assert (weight, "under the same name" in what) == ("note", True)


def test_one_run_twice_and_an_npz_alone_are_found(tmp_path):
    path = a_record(tmp_path / "a")
    a_record(tmp_path / "b")
    (path.parent / "alone.npz").write_bytes(b"")
    assert sorted(what for _, _, what in found(tmp_path)) == [
        f"it is the same run as {path}",
        "no record stands beside it",
    ]


def test_failed_runs_are_notes_and_probes_are_no_records(tmp_path):
    path = a_record(tmp_path)
    path.with_suffix(".probe.json").write_text("{}")
    failed = replace(read_record(path), status="failed", reason="no memory", last=None, selected=None)
    path.with_suffix(".failed.json").write_bytes(msgspec.json.encode(failed))
    assert found(tmp_path) == [("note", path.with_suffix(".failed.json").name, "a run failed: no memory")]


# --- Claims --------------------------------------------------------------------------------------

CLAIM = Claim(
    paper="one",
    table="Table 1",
    label="A",
    method="a",
    source="own",
    dataset="toy3",
    accuracy=50.0,
    miou=20.0,
)


def claimed(*claims: Claim):
    return [(one.weight, one.path.name, one.what) for one in audit_claims(claims, Path(), {"toy3"})]


def test_claims_that_agree_pass():
    rounded = replace(CLAIM, paper="two", source="cited", accuracy=50.04, decimals=2)
    assert claimed(CLAIM, rounded, replace(CLAIM, paper="three", source="re-run", miou=1.0)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"miou": 101.0}, "miou 101.0 is no percentage"),
        ({"accuracy": -1.0}, "accuracy -1.0 is no percentage"),
        ({"dataset": "toy4"}, "there is no dataset 'toy4'"),
        ({"protocol": "stego32@1"}, "There is no protocol 'stego32@1'"),
    ],
)
def test_a_claim_that_cannot_be_is_wrong(fields, message):
    ((weight, name, what),) = claimed(replace(CLAIM, **fields))
    assert (weight, name) == ("wrong", "one.toml")
    assert what == f"Table 1, 'A': {message}"


def test_a_cell_twice_is_wrong_and_a_contradiction_is_a_note():
    assert claimed(CLAIM, replace(CLAIM, miou=21.0)) == [
        ("wrong", "one.toml", "Table 1, 'A' has two numbers on toy3")
    ]
    cited = replace(CLAIM, paper="two", table="Table 2", source="cited", miou=21.0)
    assert claimed(CLAIM, cited) == [
        ("note", "two.toml", "Table 2 says 50.0 / 21.0 of a on toy3; its authors 50.0 / 20.0 (Table 1)")
    ]
    assert claimed(CLAIM, replace(cited, crf=True)) == []


# --- The command ---------------------------------------------------------------------------------


def test_the_command_exits_by_what_it_finds(tmp_path, command):
    path = a_record(tmp_path, cell=a_cell("elsewhere"), notes=["label maps made elsewhere"])
    said = command("audit", "records", "--records", tmp_path)
    assert (said.code, "1 record and" in said.out, "nothing wrong" in said.out) == (0, True, True)
    spoil_scores(path)
    said = command("audit", "records", "--records", tmp_path)
    assert (said.code, "1 wrong" in said.out, path.name in said.out) == (1, True, True)
    empty = command("audit", "records", "--records", tmp_path / "none")
    assert (empty.code, "no records" in empty.err) == (2, True)


def test_what_many_files_share_is_said_once(tmp_path, command):
    for seed in range(3):
        a_record(
            tmp_path, cell=a_cell("elsewhere", seed=seed), notes=["label maps made elsewhere"], command=""
        )
    said = command("audit", "records", "--records", tmp_path)
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if "no command" in line]
    assert "and 2 more" in line
