"""Options from the command line against a signature, above all where it takes paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from uss_bench.errors import UsageError
from uss_bench.plugins.params import check_options


def entry(
    *, root: str | Path = "", only: Path = Path(), maybe: Path | None = None, rate: float = 0.0
) -> None: ...


@pytest.mark.parametrize("name", ["root", "only", "maybe"])
def test_a_path_is_a_string_or_a_path_and_nothing_else(name):
    for value in ("here", Path("here")):
        assert check_options(entry, {name: value}, "It", "--data") == {name: value}
    for value in (3, 0.5, True, ["here"], {"here": 1}):
        with pytest.raises(UsageError, match=f"It: {name}=.* is not valid: Expected `str"):
            check_options(entry, {name: value}, "It", "--data")


def test_only_an_optional_path_may_be_none():
    assert check_options(entry, {"maybe": None}, "It", "--data") == {"maybe": None}
    for name in ("root", "only"):
        with pytest.raises(UsageError, match="got `null`"):
            check_options(entry, {name: None}, "It", "--data")


def test_other_options_become_what_the_signature_says():
    assert check_options(entry, {"rate": 1}, "It", "--set") == {"rate": 1.0}
    assert isinstance(check_options(entry, {"rate": 1}, "It", "--set")["rate"], float)


@pytest.mark.parametrize("dataset", ["folder", "cityscapes27", "cocostuff27", "potsdam3"])
@pytest.mark.parametrize("value", ["3", "null", "[1]", "true"])
def test_a_root_that_is_no_string_is_a_usage_error(command, dataset, value):
    said = command("verify", "--dataset", dataset, "--data", f"root={value}")
    assert said.code == 2
    assert "is not valid: Expected `str`" in said.err
