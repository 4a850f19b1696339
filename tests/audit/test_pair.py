"""Two records side by side: all in which they differ, what that may do to the numbers, and their scores."""

from __future__ import annotations

from board_records import write_runs


def test_what_differs_is_named_with_what_it_may_do(command, tmp_path):
    (first,) = write_runs(tmp_path, "alpha", 0.5, seeds=(0,), params={"tau": 0.1})
    (second,) = write_runs(tmp_path, "alpha", 0.7, seeds=(0,), params={"tau": 0.2}, code="ba9876543210")
    said = command("audit", "pair", first, second)
    assert said.code == 0
    rows = {line.split("  ")[0]: line for line in said.out.splitlines()}
    assert "ANOTHER INPUT" in rows["parameter tau"]
    assert "may move numbers" in rows["code of the method"]
    assert rows["mIoU raw"].split()[-1].startswith("+")


def test_a_record_beside_itself_does_not_differ(command, tmp_path):
    (path,) = write_runs(tmp_path, "alpha", seeds=(0,))
    said = command("audit", "pair", path, path.stem.rpartition("-")[2], "--records", tmp_path)
    assert said.code == 0
    assert "Nothing differs." in said.out
    assert "+0.00" in said.out


def test_a_record_that_is_not_there_is_told(command, tmp_path):
    said = command("audit", "pair", "0123abcd", "4567cdef", "--records", tmp_path)
    assert said.code != 0
    assert "0123abcd" in said.err
