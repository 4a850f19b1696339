"""The one table of all benchmarks: read from what the scripts print."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tabulate import tabulate

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
everything = importlib.import_module("all")


def test_a_row_is_named_by_its_words_and_its_first_column():
    losses = tabulate(
        [["frozen", 784, 0.41, 3.4], ["learned", 1600, 1.2, 2.5]],
        headers=["S compares", "N", "ours, s", "times faster"],
    )
    store = tabulate(
        [["reading", "8.0 ms", "a step", "230 ms", 0.03], ["writing", "1 GB/s", "", "", 1]],
        headers=["the store", "measured", "beside", "measured", "ratio"],
    )
    assert list(everything.as_rows("x", f"A title, of it all\n\n{losses}\n\nA note.\n\n{store}\n")) == [
        ["x", "frozen", "N 784 · ours, s 0.41 · times faster 3.4"],
        ["x", "learned", "N 1600 · ours, s 1.2 · times faster 2.5"],
        ["x", "reading · a step", "measured 8.0 ms · measured 230 ms · ratio 0.03"],
        ["x", "writing", "measured 1 GB/s · ratio 1"],
    ]


def test_a_first_column_of_numbers_says_what_they_are():
    text = tabulate([[784, 0.02]], headers=["N", "ours, s"])
    assert list(everything.as_rows("x", text)) == [["x", "N 784", "ours, s 0.02"]]


def test_every_script_that_measures_is_run_and_no_part_of_them():
    names = {path.stem for path in everything.scripts()}
    assert {"training_step", "smooseg_loss", "pair_loss", "batched_study", "cost", "crf"} <= names
    assert not names & {"all", "measuring", "literal_losses", "reference_step"}
