"""The one page of all benchmarks: every script that measures is run, and what it prints is kept."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
everything = importlib.import_module("all")


def test_every_script_that_measures_is_run_and_no_part_of_them():
    names = {path.stem for path in everything.scripts()}
    assert {"training_step", "pair_losses", "batched_study", "cost", "crf"} <= names
    assert not names & {"all", "measuring", "literal_losses", "reference_step"}


@pytest.fixture
def ran(monkeypatch, tmp_path):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=f"figures of {Path(command[1]).stem}\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["all.py", "--small", "--out", str(tmp_path / "build" / "bench.md")])
    return commands


def test_the_page_holds_what_each_script_printed(ran, tmp_path):
    everything.main()
    page = (tmp_path / "build" / "bench.md").read_text()
    assert page.startswith("Figures of `--small` mean nothing")
    assert all(command[-1] == "--small" for command in ran)
    for script in everything.scripts():
        assert f"## `{script.name}`\n\n```text\nfigures of {script.stem}\n```" in page
