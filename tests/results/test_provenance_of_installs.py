"""A record names the commit of the code that made it, also where that code is an installed copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from uss_bench.results import provenance
from uss_bench.results.provenance import git_state

ROOT = Path(__file__).parents[2]


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of its own, with as little as an installation needs."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in (
        "uss_bench",
        "methods/dino",
        "datasets/toy3",
        "leaderboards/claims",
        "leaderboards/protocols",
    ):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def setup(folder: Path, *words: object) -> None:
    command = [sys.executable, "setup.py", "-q", *map(str, words)]
    subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def built(folder: Path, out: Path) -> str:
    setup(folder, "egg_info", "--egg-base", out, "build_py", "--build-lib", out)
    return (out / "uss_bench" / "commit.txt").read_text()


def test_an_installed_copy_knows_its_commit(checkout, tmp_path, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    for name in ("clean", "changed", "sdist"):
        (tmp_path / name).mkdir()
    assert built(checkout, tmp_path / "clean") == f"{commit}\n"
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "clean" / "uss_bench")
    assert git_state() == commit

    readme = checkout / "README.md"
    before = readme.read_text()
    readme.write_text(before + "more\n")
    assert built(checkout, tmp_path / "changed") == f"{commit}+changes\n"
    readme.write_text(before)

    setup(checkout, "egg_info", "--egg-base", tmp_path / "sdist", "sdist", "--dist-dir", tmp_path / "sdist")
    (archive,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "uss_bench" / "commit.txt").read_text() == f"{commit}\n"
    (tmp_path / "again").mkdir()
    assert built(unpacked, tmp_path / "again") == f"{commit}\n", "an sdist has no repository, and the file"


def test_a_checkout_asks_its_repository_and_a_copy_in_another_one_does_not(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGE", checkout / "uss_bench")
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert git_state() == commit
    (checkout / "README.md").write_text("changed")
    assert git_state() == f"{commit}+changes"
    git(checkout, "checkout", "-q", "README.md")
    (checkout / "inner").mkdir()
    shutil.copytree(checkout / "uss_bench" / "runtime", checkout / "inner" / "uss_bench")
    monkeypatch.setattr(provenance, "_PACKAGE", checkout / "inner" / "uss_bench")
    assert git_state() == ""
