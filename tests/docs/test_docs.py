"""What the documents show can be done as they show it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from running import PLUGINS, Run

from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_state
from uss_bench.training.context import RunContext

ROOT = Path(__file__).parents[2]


def code_blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def block_with(page: str, text: str, language: str = "python") -> str:
    (found,) = [block for block in code_blocks(page, language) if text in block]
    return found


def test_the_method_of_the_plugin_guide_runs(tmp_path):
    folder = tmp_path / "my_method"
    folder.mkdir()
    (folder / "spec.toml").write_text(block_with("docs/plugins.md", "my_method:MyMethod", "toml"))
    (folder / "my_method.py").write_text(block_with("docs/plugins.md", "class MyMethod"))
    run = Run(Registry([folder, PLUGINS]), tmp_path)
    outcome = run("my-method", params={"steps": 60})
    assert outcome.record.last is not None
    assert outcome.record.curves["loss"]


def test_the_readme_gives_the_two_commands_that_the_checks_run():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker in ("main job", "tests"):
        assert re.search(rf"<!-- {marker} -->\n```sh\n.*?\n```", text, flags=re.DOTALL)


def test_the_method_of_two_phases_runs_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    folder = tmp_path / "two_phases"
    folder.mkdir()
    (folder / "two_phases.py").write_text(block_with("docs/plugins.md", "class TwoPhases"))
    (folder / "spec.toml").write_text(
        'kind = "method"\nname = "two-phases"\ntitle = "Two phases"\nsummary = "of the guide"\n'
        'entry = "two_phases:TwoPhases"\ninputs = ["image"]\n'
    )
    params = {"warmup": 4, "batch_size": 3}
    registry = Registry([folder, PLUGINS])
    whole = Run(registry, tmp_path / "whole")("two-phases", params=params)
    assert [len(whole.record.curves[name]) for name in ("warmup", "loss")] == [4, 6]

    class Killed(BaseException):
        pass

    steps, seen = RunContext._steps, []

    def until(self, *arguments):
        for step in steps(self, *arguments):
            seen.append(step)
            if len(seen) == 12:
                raise Killed
            yield step

    again = Run(registry, tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", until)
        with pytest.raises(Killed):
            again("two-phases", params=params, snapshot_seconds=0, force="token")
    outcome = again("two-phases", params=params, snapshot_seconds=0, force="token")
    assert outcome.record.curves == whole.record.curves
    states = [read_state(one.path, one.record) for one in (whole, outcome)]
    assert states[0] == states[1]


def test_what_plugins_may_import_can_be_imported():
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    table = text.partition("## What plugins may import")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(uss_bench[\w.]*)` \| (.*) \|$", table, flags=re.MULTILINE)
    assert len(rows) > 15
    for module, names in rows:
        found = importlib.import_module(module)
        missing = [name for name in re.findall(r"`(\w+)`", names) if not hasattr(found, name)]
        assert not missing, f"{module}: {missing}"


def test_the_guide_shows_the_contracts_as_they_are():
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    source = (ROOT / "uss_bench/contracts.py").read_text(encoding="utf-8")
    shown = text.partition("<!-- part: contracts -->\n```python\n")[2].partition("```\n<!-- end -->")[0]
    assert shown.strip() == source[source.index("IGNORE = ") :].strip(), "run: python docs/build.py"


def test_every_figure_of_the_page_of_plots_has_its_command():
    import sys

    sys.path.append(str(ROOT / "docs"))
    found = importlib.import_module("figures")
    drawn = {image.name for _, image in found.figures()}
    shown = set(re.findall(r"\(images/(plot-[\w-]+\.png)\)", (ROOT / "docs/plots.md").read_text()))
    assert shown - drawn == {"plot-embedding.png"}  # it needs trained states
    assert found.differs(ROOT / "docs/images/plot-classes.png", ROOT / "docs/images/plot-pairs.png")
    assert not found.differs(ROOT / "docs/images/plot-pairs.png", ROOT / "docs/images/plot-pairs.png")
