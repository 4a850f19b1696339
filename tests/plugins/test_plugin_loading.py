"""Specs are checked by key, and a plugin's code is imported when it is used and not before."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plugin_folders import SPEC, write_plugin
from running import python

from uss_bench.errors import ContractError, DataError
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import read_spec

PRESET = "[[presets]]\nname = 'p'\n"
PAPER = "[paper]\ntitle = 'T'\nauthors = 'A'\nvenue = 'V'\n"


# --- What a spec may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind = ", "is not TOML: Invalid value"),
        (SPEC.replace("method", "metod"), r"`\$\.kind`"),
        (SPEC.replace('title = "New"', ""), "missing required field `title`"),
        (SPEC.replace('"new"', '"New Method"'), r"`\$\.name`"),
        (SPEC.replace('["image"]', '"image"'), r"Expected `array`, got `str` - at `\$\.inputs`"),
        (SPEC + "speed = 9", "unknown field `speed`"),
        (SPEC + "alpha = 'high'", r"got `str` - at `\$\.alpha`"),
        (SPEC + PAPER + "year = '2024'", r"at `\$\.paper\.year`"),
        (SPEC + PRESET, r"missing required field `params` - at `\$\.presets\[0\]`"),
        (SPEC + PRESET + "params = {}\nwhen = { seed = '1' }", r"at `.*\$\.presets\[0\]\.when`"),
    ],
)
def test_a_wrong_spec_is_an_error_that_names_the_file_and_the_key(tmp_path, text, complaint):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint) as caught:
        read_spec(path)
    assert caught.value.what.startswith(str(path))


# --- What is not imported ------------------------------------------------------------------------


def test_listing_plugins_does_not_import_them(command, tmp_path):
    write_plugin(tmp_path / "mine", code="raise SystemExit('imported')")
    said = command("ls", "methods", "--plugin", tmp_path)
    assert said.code == 0
    assert re.search(r"new +none +\[--plugin\]", said.out)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("raise ValueError('on purpose')", "cannot be imported: ValueError: on purpose"),
        (None, "cannot be imported: ModuleNotFoundError"),
        ("Old = 1", "new.py has no 'New', which its spec.toml names as entry"),
    ],
    ids=["its module raises", "its module is missing", "its object is missing"],
)
def test_a_plugin_is_named_when(tmp_path, code, complaint):
    plugin = Registry([write_plugin(tmp_path / "mine", code=code)]).find("methods", "new")
    with pytest.raises(ContractError, match=complaint) as caught:
        plugin.load()
    assert str(tmp_path / "mine") in caught.value.what


IMPORTED = """
import json, sys
from uss_bench.cli import main
try:
    main()
except SystemExit as exit:
    heavy = {"torch", "timm", "numba", "matplotlib", "pandas", "scipy", "numpy"}
    print(json.dumps([exit.code, sorted(heavy & set(sys.modules))]))
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [("--help", 0), ("ls", 0), ("run --help", 0), ("run --method smoseg --dataset toy3", 2)],
)
def test_a_quick_answer_imports_no_heavy_library(tmp_path, line, code):
    done = python(IMPORTED, *line.split(), cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == [code, []], done.stderr


def test_methods_and_datasets_are_no_packages_at_the_top_level(tmp_path):
    code = """
import importlib.util
for name in ("methods", "datasets"):
    found = importlib.util.find_spec(name)
    print(name, [] if found is None else list(found.submodule_search_locations or [found.origin]))
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    methods, datasets = done.stdout.splitlines()
    assert methods == "methods []"
    assert "toy3" not in datasets
    assert str(Path(__file__).parents[2]) not in datasets, "another's `datasets` may be there, ours never"


def test_plugins_of_the_same_file_names_do_not_mix(tmp_path):
    folders = [write_plugin(tmp_path / name, name, code=f"New = '{name}'") for name in ("one", "two")]
    registry = Registry(folders)
    assert [registry.find("methods", name).load() for name in ("one", "two", "one")] == ["one", "two", "one"]
