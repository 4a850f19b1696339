"""Plans of several cells in processes of their own: the same records, failures told, deaths outlived."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from running import PLUGINS, SMALL, python
from test_local_launcher import alive

from uss_bench.cli import cli
from uss_bench.results.files import read_arrays, read_record, record_files

PLAN = """
[defaults]
dataset = "tiny"
protocol = "{protocol}"

[[runs]]
method = "dino"
set = {{ steps = 3 }}
seeds = 2

[[runs]]
method = "broken"
set = {{ fault = "train raises" }}

[[runs]]
method = "mortal"
set = {{ deaths = 1, diary = "{diary}" }}
"""
MAIN = "from uss_bench.cli import main; main()"
HERE = ["--plugin", str(PLUGINS), "--threads", "1", "--workers", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory, isolated) -> tuple[Path, subprocess.CompletedProcess]:
    """A plan run with two jobs: its folder, and what the command said."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "mine.toml").write_text(PLAN.format(protocol=SMALL, diary="diary"))
    with pytest.MonkeyPatch.context() as patch:  # a cache in which no other test has left these features
        patch.setenv("USS_BENCH_CACHE", str(folder / "cache"))
        return folder, python(MAIN, "run", "--plan", "mine.toml", "--jobs", 2, *HERE, cwd=folder)


@pytest.fixture(scope="module")
def here(launched) -> Path:
    """The results of the same plan, run in one process; those that fail are not of interest."""
    folder, _ = launched
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["run", "--method", "dino", "--dataset", "tiny", "--set", "steps=3", "--seeds", "2"]
        patch.setattr("sys.argv", ["uss-bench", *words])
        arguments = [*words, "--protocol", SMALL, *HERE, "--out", "here", "--quiet"]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
    return folder / "here"


def done(out: Path, method: str) -> list[Path]:
    return [path for path in record_files(out) if path.name.startswith(method) and ".failed" not in path.name]


def test_processes_leave_the_records_that_one_process_leaves(launched, here):
    folder, _ = launched
    ours, theirs = done(folder / "results", "dino"), done(here, "dino")
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        first, second = read_arrays(one, read_record(one)), read_arrays(other, read_record(other))
        for key, counts in first.counts.items():
            assert np.array_equal(counts, second.counts[key])
        assert one.with_suffix(".png").exists()


def test_features_are_extracted_once_and_before_the_cells(launched):
    folder, _ = launched
    records = [read_record(path) for path in record_files(folder / "results") if ".failed" not in path.name]
    assert [record.encoded_items for record in records] == [0, 0, 0]
    [log] = (folder / "results" / ".plans").glob("*/extract-*.log")
    assert "14 images went through patchstats" in log.read_text(), "6 to train on, 4 to test and 4 mirrored"


def test_a_cell_that_fails_stops_no_other_and_its_reason_is_told(launched):
    folder, said = launched
    assert said.returncode == 1
    assert "1 of 4 cells failed" in said.stderr
    assert "RuntimeError: the dog ate the gradients" in said.stderr
    assert "Traceback" not in said.stderr
    [log] = re.findall(r"\(log: (\S+broken\S+)\)", said.stderr.partition("cells failed")[2])
    assert "Traceback" in (folder / log).read_text()
    [failed] = (folder / "results").rglob("*.failed.json")
    assert "the dog ate the gradients" in read_record(failed).reason
    assert "1 of 1" in said.stdout, "the others are in the table"


def test_a_process_that_dies_is_reported_and_started_again(launched):
    folder, said = launched
    assert len((folder / "diary-s0").read_text().splitlines()) == 2
    assert re.search(r"mortal.*killed by SIGKILL.*starting it again \(\S+mortal-s0\S+\.log\)", said.stderr)
    [record] = done(folder / "results", "mortal")
    log = next((folder / "results" / ".plans").glob(f"*/{record.stem}.log"))
    assert log.read_text().count("farewell") == 1


def test_status_shows_what_became_of_the_cells(launched, command, monkeypatch):
    folder, _ = launched
    monkeypatch.chdir(folder)
    said = command("status")
    assert said.code == 0
    assert re.search(r"dino, steps=3, seed 0 +done", said.out)
    assert re.search(r"broken.* +failed +Method 'broken' failed in training", said.out)
    assert re.search(r"log: results/\.plans/mine-\w+/broken-s0-\w+\.log", said.out)
    assert "4 cells: 3 done, 1 failed" in said.out
    assert "uss-bench run --plan mine.toml --jobs 2" in said.out


def test_the_command_of_a_record_made_elsewhere_runs_that_cell(launched, command, monkeypatch):
    folder, _ = launched
    monkeypatch.chdir(folder)
    said = command("rerun", done(folder / "results", "dino")[1], "--plugin", PLUGINS)
    assert said.code == 0, said.err


def test_ctrl_c_ends_everything_and_leaves_nothing_half_written(tmp_path):
    words = ["run", "--method", "mortal", "--dataset", "tiny", "--protocol", SMALL, "--seeds", "2"]
    words += ["--set", "deaths=-1", "--set", "diary=diary", "--jobs", "2", *HERE]
    # Tests that run in the background have Ctrl-C ignored, and so would their children.
    main = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"
    process = subprocess.Popen(
        [sys.executable, "-c", main, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    diaries = [tmp_path / "diary-s0", tmp_path / "diary-s1"]
    for _ in range(3000):
        if all(path.exists() and path.read_text() for path in diaries):
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Cancelling 2 tasks" in said
    assert "Interrupted." in said
    assert not any(alive(int(path.read_text())) for path in diaries)
    left = {path.suffix for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert not left & {".json", ".npz", ".safetensors", ".partial", ".now"}


def test_a_run_outlives_whoever_reads_its_messages(tmp_path):
    words = ["run", "--method", "random", "--dataset", "tiny", "--protocol", SMALL, *HERE]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stderr.close()  # as when `tee` dies
        said = process.stdout.read()
    assert process.returncode == 0
    assert "mIoU" in said
    assert len(done(tmp_path / "results", "random")) == 1


@pytest.mark.skipif(not (find_spec("pip") and find_spec("setuptools")), reason="needs pip and setuptools")
def test_a_launcher_of_an_installed_distribution_runs_a_plan(tmp_path):
    source = shutil.copytree(PLUGINS / "launcher_distribution", tmp_path / "source")
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", tmp_path / "site", source]
    subprocess.run(pip, check=True, capture_output=True)

    words = ["run", "--method", "random", "--dataset", "tiny", "--protocol", SMALL, "--plugin", PLUGINS]
    words += ["--launcher", "one-by-one", "--launcher-set", "ledger=mine", "--device", "cpu"]
    said = python(MAIN, *words, cwd=tmp_path, path=[tmp_path / "site"])
    assert said.returncode == 0, said.stderr
    [record] = record_files(tmp_path / "results")
    [ledger] = (tmp_path / "results" / ".plans").glob("*/mine")
    assert ledger.read_text().split() == [record.stem]
    assert read_record(record).environment["threads"] == 1, "as many as the launcher says that it has"
    status = python(MAIN, "status", "--all", cwd=tmp_path, path=[tmp_path / "site"])
    assert "1 cells: 1 done" in status.stdout
    without = python(MAIN, *words, cwd=tmp_path)
    assert (without.returncode, "There is no launcher 'one-by-one'" in without.stderr) == (2, True)
