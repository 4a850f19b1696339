"""``uss-bench board``: files that are a function of the records, a check that notices, and printing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from board_records import write_runs

from uss_bench.board import compute
from uss_bench.files.owned import LIST, OwnedFiles
from uss_bench.results import collection
from uss_bench.statistics.intervals import Interval


@pytest.fixture(autouse=True)
def no_statistics(monkeypatch):
    monkeypatch.setattr(compute, "_sampling", lambda setting, refinement: setting.counts(refinement))
    monkeypatch.setattr(compute, "interval_of", lambda *_: Interval(1.0, 2.0))
    monkeypatch.setattr(compute, "tiers_of", lambda settings, *_: [1] * len(settings))


@pytest.fixture
def records(tmp_path):
    write_runs(tmp_path / "records", "alpha", 0.6)
    write_runs(tmp_path / "records", "beta", 0.5, backbone="resnet")
    write_runs(tmp_path / "records", "constant", 0.2, backbone="none", sha256="")
    return tmp_path / "records"


@pytest.fixture
def build(command, records, tmp_path):
    """Run ``board build`` into one folder."""

    def build(*arguments, out=tmp_path / "boards"):
        return command("board", "build", "--records", records, "--out", out, *arguments)

    return build


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_records_give_the_same_bytes(build, tmp_path):
    assert build().code == 0
    first = files(tmp_path / "boards")
    shutil.rmtree(tmp_path / "boards")
    assert build().code == 0
    assert files(tmp_path / "boards") == first
    assert {"README.md", "board.html", "records.csv", "settings.csv"} < set(first)
    assert sum(name.endswith(".tex") for name in first) == 3  # two tables, and all of them in one
    assert build("--check").code == 0


@pytest.mark.parametrize("name", ["board.html", "README.md", "settings.csv", "records.csv"])
def test_an_edited_file_is_named_and_not_replaced(build, tmp_path, name):
    build()
    path = tmp_path / "boards" / name
    path.write_bytes(path.read_bytes().replace(b"alpha", b"alpine"))
    for arguments, code in ((["--check"], 3), ([], 2)):
        said = build(*arguments)
        assert said.code == code
        assert str(path) in said.err
        assert b"alpine" in path.read_bytes()
    path.unlink()
    assert build().code == 0
    assert build("--check").code == 0


def test_check_notices_a_new_record_and_a_table_that_is_no_more(build, records, tmp_path):
    build()
    write_runs(records, "gamma", 0.4)
    assert build("--check").code == 3
    build()
    for path in (records / "town").glob("beta-*"):
        path.unlink()
    said = build("--check")
    assert said.code == 3
    assert "town-resnet" in said.err
    build()
    assert len(list((tmp_path / "boards" / "latex").glob("*.tex"))) == 1


@pytest.fixture
def counted(monkeypatch):
    """How often boards were computed; files count as settled at once."""
    made = []
    work = compute.boards
    monkeypatch.setattr(compute, "boards", lambda *args, **options: made.append(1) or work(*args, **options))
    monkeypatch.setattr("uss_bench.files.status._FINE_NS", 0)
    monkeypatch.setattr("uss_bench.files.status._COARSE_NS", 0)
    return made


def test_where_nothing_has_changed_nothing_is_computed(build, records, tmp_path, counted):
    broken = records / "town" / "broken.json"
    broken.write_text("{}")
    first = build()
    assert first.code == 0
    before = files(tmp_path / "boards")
    again = build()
    assert (again.code, again.out, again.err) == (0, first.out, first.err)
    assert "broken.json" in again.err
    assert build("--check").code == 0
    assert len(counted) == 1
    assert files(tmp_path / "boards") == before


@pytest.mark.parametrize("change", ["a record", "a label", "another folder", "a deleted board"])
def test_any_change_leads_to_a_new_build(build, records, tmp_path, counted, change):
    build()
    out = tmp_path / "boards"
    if change == "a record":
        write_runs(records, "gamma", 0.4)
    elif change == "another folder":
        out = tmp_path / "elsewhere" / "boards"
    elif change == "a deleted board":
        (out / "board.html").unlink()
    assert build(*(("--label", "alpha=ALPHA") if change == "a label" else ()), out=out).code == 0
    assert len(counted) == 2
    page = (out / "board.html").read_text(encoding="utf-8")
    assert ("gamma" in page, "ALPHA" in page) == (change == "a record", change == "a label")


def test_an_edited_board_is_kept_also_where_nothing_has_changed(build, tmp_path, counted):
    build()
    path = tmp_path / "boards" / "board.html"
    path.write_text("mine")
    assert build().code == 2
    assert build("--check").code == 3
    assert path.read_text() == "mine"


def test_a_build_holds_the_arrays_of_one_table_at_a_time(records, tmp_path, monkeypatch):
    write_runs(records, "alpha", 0.4, dataset="harbour")
    entries = collection.read_entries([records])[0]
    held = []
    row = compute._row
    monkeypatch.setattr(
        compute,
        "_row",
        lambda one, *rest: (
            held.append({each.record.cell.dataset.name for each in entries if "arrays" in vars(each)})
            or row(one, *rest)
        ),
    )
    compute.boards(collection.counted(collection.gather(entries), []))
    assert held[1:] == [{"town"}] * 3  # the harbour, which comes before, is forgotten
    assert not any("arrays" in vars(each) for each in entries)


def test_check_of_a_folder_that_is_not_there_fails_and_makes_none(build, tmp_path):
    assert build("--check").code == 3
    assert not (tmp_path / "boards").exists()


def test_no_records_are_a_usage_error_with_a_hint(command, tmp_path):
    said = command("board", "show", "--records", tmp_path)
    assert said.code == 2
    assert "--records DIR" in said.err


def test_show_prints_the_tables_asked_for_with_their_floors(command, records):
    said = command("board", "show", "--records", records, "--backbone", "resnet")
    assert said.code == 0
    assert "town · resnet" in said.out
    assert "Constant† (floor)" in said.out  # stale, for the real one has other code than the test's
    assert "alpha" not in said.out


@pytest.mark.parametrize(
    ("kind", "start"), [("text", "town ·"), ("md", "## town"), ("latex", "% town"), ("csv", "table,dataset")]
)
def test_show_prints_every_format(command, records, kind, start):
    said = command("board", "show", "--records", records, "--dataset", "town", "--format", kind)
    assert said.code == 0
    assert said.out.startswith(start)
    assert "alpha" in said.out
    assert "beta" in said.out


def test_latex_of_several_datasets_ends_with_one_table_over_them(command, records):
    for place in ("harbor", "forest"):
        for method in ("alpha", "gamma"):
            write_runs(records, method, 0.4, dataset=place)
    asked = ("--dataset", "town", "--dataset", "harbor", "--format", "latex")
    said = command("board", "show", "--records", records, *asked)
    assert said.code == 0
    assert "forest" not in said.out
    overview = said.out.partition("% all datasets")[2]
    assert "{town}" in overview
    assert "{harbor}" in overview


def test_an_unknown_dataset_gets_the_nearest_name(command, records):
    said = command("board", "show", "--records", records, "--dataset", "twn")
    assert said.code == 2
    assert "Did you mean 'town'?" in said.err


def test_the_committed_boards_can_be_built_again_in_their_place():
    folder = Path(__file__).parents[2] / "leaderboards" / "boards"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(OwnedFiles(folder).owned()) == names - {LIST}
