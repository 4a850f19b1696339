"""Plugins are found by path, by environment variable, by installation and built in, in that order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from plugin_folders import install, write_plugin
from running import PLUGINS, SMALL, python

from uss_bench.errors import UsageError
from uss_bench.plugins.registry import ENVIRONMENT_VARIABLE, Registry
from uss_bench.results.files import read_record

DISTRIBUTION = PLUGINS / "distribution"
PACKAGE = DISTRIBUTION / "src" / "uss_bench_local_contrast"

# --- Each way, run -------------------------------------------------------------------------------


def arguments(out: Path) -> list[object]:
    small = ["--protocol", SMALL, "--workers", 1, "--device", "cpu", "--out", out]
    return ["run", "--method", "local-contrast", "--dataset", "tiny", *small]


def assert_recorded(out: Path) -> None:
    [path] = (out / "tiny").glob("local-contrast-*.json")
    assert read_record(path).last.raw.accuracy > 90


def test_a_plugin_runs_from_a_path(command, tmp_path):
    said = command(*arguments(tmp_path), "--plugin", PACKAGE, "--plugin", PLUGINS)
    assert said.code == 0, said.err
    assert_recorded(tmp_path)


def test_a_plugin_runs_from_the_environment_variable(command, tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"{PACKAGE}{os.pathsep}{PLUGINS / 'tiny'}")
    said = command(*arguments(tmp_path))
    assert said.code == 0, said.err
    assert_recorded(tmp_path)


@pytest.mark.skipif(not (find_spec("pip") and find_spec("setuptools")), reason="needs pip and setuptools")
def test_a_plugin_runs_from_an_installed_distribution(tmp_path):
    source = shutil.copytree(DISTRIBUTION, tmp_path / "source")  # building writes into its folder
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", tmp_path / "site", source]
    subprocess.run(pip, check=True, capture_output=True)

    code = "from uss_bench.cli import main; main()"
    command = [*arguments(tmp_path / "results"), "--plugin", PLUGINS / "tiny"]
    done = python(code, *command, cwd=tmp_path, path=[tmp_path / "site"])
    assert done.returncode == 0, done.stderr
    assert_recorded(tmp_path / "results")
    listed = python(code, "ls", "methods", cwd=tmp_path, path=[tmp_path / "site"])
    assert re.search(r"local-contrast .*\[uss-bench-local-contrast\]", listed.stdout)


# --- Names, and who comes first ------------------------------------------------------------------


ORIGINS = {"path": "--plugin", "variable": ENVIRONMENT_VARIABLE, "site": "their-plugin"}
OVERRIDES = "overrides = true\n"


@pytest.fixture
def lay(tmp_path, monkeypatch):
    """Lay one name into some of the places before the built-in; what more each spec says, by place."""

    def lay(name: str, places: Mapping[str, str]) -> tuple[dict[str, Path], Registry]:
        folders = {}
        for place, more in places.items():
            make = install if place == "site" else write_plugin
            folders[place] = make(tmp_path / place, name, more=more)
        if "variable" in folders:
            monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folders["variable"]))
        if "site" in folders:
            monkeypatch.syspath_prepend(tmp_path / "site")
        return folders, Registry([folders["path"]] if "path" in folders else [])

    return lay


@pytest.mark.parametrize("places", [["path", "variable", "site"], ["variable", "site"], ["site"]])
def test_of_those_that_override_the_first_source_wins(lay, places):
    folders, registry = lay("dino", dict.fromkeys(places, OVERRIDES))
    found = registry.find("methods", "dino")
    assert (found.folder, found.origin) == (folders[places[0]], ORIGINS[places[0]])


@pytest.mark.parametrize("overriding", ["variable", "site"])
def test_a_later_source_cannot_override_an_earlier_one(lay, overriding):
    folders, registry = lay("new", {"path": "", "variable": "", "site": "", overriding: OVERRIDES})
    with pytest.raises(UsageError, match="Two methods are called 'new'") as caught:
        registry.find("methods", "new")
    assert f"{folders['path']} (--plugin)" in caught.value.what
    assert f"{folders['variable']} ({ENVIRONMENT_VARIABLE})" in caught.value.what
    assert "overrides = true" in caught.value.hint


def test_a_clash_with_a_built_in_plugin_names_both_folders(tmp_path):
    mine = write_plugin(tmp_path / "mine", "dino")
    with pytest.raises(UsageError) as caught:
        Registry([mine]).names("methods")
    assert f"{mine} (--plugin)" in caught.value.what
    assert re.search(r"methods.dino \(built-in\)", caught.value.what)


def test_the_same_folder_given_twice_is_no_clash(tmp_path, monkeypatch):
    mine = write_plugin(tmp_path / "mine")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert Registry([mine, mine]).find("methods", "new").origin == "--plugin"


def test_a_method_and_a_dataset_may_share_a_name(tmp_path):
    Registry([write_plugin(tmp_path / "mine", "tiny"), PLUGINS]).names("methods")


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("methods", "smoseg", "smooseg"),
        ("datasets", "tinny", "tiny"),
        ("backbones", "patchstat", "patchstats"),
    ],
)
def test_a_wrong_name_is_answered_with_the_closest_ones(registry, kind, wrong, right):
    with pytest.raises(UsageError, match=f"There is no {kind[:-1]} '{wrong}'") as caught:
        registry.find(kind, wrong)
    assert f"Did you mean '{right}'" in caught.value.hint


@pytest.mark.parametrize("content", ["missing", "empty"])
def test_a_path_that_holds_no_plugin_is_an_error_that_names_it(tmp_path, content):
    folder = tmp_path / content
    if content == "empty":
        folder.mkdir()
    with pytest.raises(UsageError, match=f"{content}, given by --plugin, is no plugin"):
        Registry([folder]).names("methods")
