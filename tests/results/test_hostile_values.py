"""Values that no run should begin with: parameters out of bounds, and arguments that are no text."""

from __future__ import annotations

import codecs
import warnings

import pytest
from plugin_folders import write_plugin

from uss_bench.errors import ContractError, UsageError
from uss_bench.files.json_file import read_json
from uss_bench.launch.launcher import State
from uss_bench.plots import style
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import read_spec
from uss_bench.runtime import progress

METHOD = ["run", "--method", "dino", "--dataset", "toy3"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "batch_size=0"], "batch_size must be at least 1, not 0"),
        (["--set", "steps=-5"], "steps must be at least 1, not -5"),
        (["--set", "checkpoint_every=0"], "checkpoint_every must be at least 1, not 0"),
        (["--set", "clusters=0"], "clusters must be at least 1, not 0"),
        (["--store-budget", "nan"], "nan is not a finite number"),
        (["--store-budget", "inf"], "inf is not a finite number"),
        (["--store-budget", "-1"], "-1.0 is not in the range"),
        (["--snapshot-every", "inf"], "inf is not a finite number"),
        (["--root", ""], "an argument is empty"),
        (["--root="], "--root is empty"),
        (["--backbone", ""], "an argument is empty"),
        (["--out", "bad\udcff"], r"'bad\xff' is not text that a record could state"),
        (["--dry-run", "--launcher", "slurm", "--launcher-set", "nodes=2"], "has no option 'nodes'"),
        (["--dry-run", "--jobs", "2", "--launcher", "local", "--launcher-set", "x=2"], "no option 'x'"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_ends_the_command_before_it_begins(command, words, expected):
    said = command(*METHOD, *words)
    assert said.code == 2
    assert expected in said.err


def plugin_of(folder, code: str, more: str = ""):
    write_plugin(folder, "new", more=more, code=code)
    return Registry([folder]).find("methods", "new")


def function(parameters: str) -> str:
    return f"def New({parameters}): ..."


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1.0, float("-inf")]])
def test_what_a_record_could_not_state_is_refused(tmp_path, value):
    """In JSON infinity and NaN become null: three settings would share one id."""
    plugin = plugin_of(tmp_path / "new", "from typing import Any\n" + function("tau: Any = 1"))
    for sound in ([1, {"a": "é"}], (0.9, (1, 2)), {1: None}, True, None):
        assert method_params(plugin, None, {"tau": sound}, n_classes=0)["tau"] == sound
    with pytest.raises(UsageError, match=r"Method 'new': tau=.* cannot be recorded"):
        method_params(plugin, None, {"tau": value}, n_classes=0)


@pytest.mark.parametrize(
    ("code", "chosen", "error", "words"),
    [
        ("New = 1", {}, ContractError, "Method 'new' failed in stating its parameters"),
        (
            "from __future__ import annotations\n" + function("a: Missing = 1"),
            {"a": 2},
            ContractError,
            "Method 'new' failed in stating its options: NameError",
        ),
        (function("a: float = float('inf')"), {}, UsageError, "a=inf cannot be recorded"),
        (function("a: object = object()"), {}, UsageError, "a=<object .* cannot be recorded"),
        (function("clusters"), {"clusters": "abc"}, UsageError, "clusters must be a number, not 'abc'"),
        (
            function("a: list[int] | tuple[int, ...] = ()"),
            {"a": [1]},
            ContractError,
            "the type of a is none that a value can have",
        ),
    ],
    ids=str,
)
def test_a_plugin_whose_parameters_make_no_sense_is_named(tmp_path, code, chosen, error, words):
    plugin = plugin_of(tmp_path / "new", code)
    with pytest.raises(error, match=words):
        method_params(plugin, None, chosen, n_classes=0)


def test_the_least_value_of_a_parameter_is_the_methods_to_say(tmp_path):
    more = "minimum = { rate = 0.5 }\n"
    plugin = plugin_of(tmp_path / "new", function("rate: float = 1.0, other: int = -3"), more)
    assert method_params(plugin, None, {"rate": 0.5}, n_classes=0) == {"rate": 0.5, "other": -3}
    with pytest.raises(UsageError, match=r"rate must be at least 0\.5, not 0\.25"):
        method_params(plugin, None, {"rate": 0.25}, n_classes=0)


@pytest.mark.parametrize("name", ["$^$ road", "$\\frac", "道路", "_^{}"])
def test_any_class_name_can_be_drawn(name, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_quiet", False)
    with warnings.catch_warnings(), style.figure() as canvas:
        warnings.simplefilter("error")
        canvas.text(0.1, 0.1, name)
        assert style.render(canvas, "png").startswith(b"\x89PNG")
    assert ("boxes stand for these" in capsys.readouterr().err) == (name == "道路")


def test_what_an_editor_of_windows_saves_is_read(tmp_path):
    """A mark of the byte order in front, and two characters at the end of each line."""
    plugin = write_plugin(tmp_path / "new")
    spec = plugin / "spec.toml"
    saved = spec.read_bytes()
    spec.write_bytes(codecs.BOM_UTF8 + saved.replace(b"\n", b"\r\n"))
    assert read_spec(spec).name == "new"
    (tmp_path / "x.json").write_bytes(codecs.BOM_UTF8 + b'{"stage": "done"}\r\n')
    assert read_json(tmp_path / "x.json", State, "state") == State("done")
