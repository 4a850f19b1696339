"""What the documents show can be done as they show it."""

from __future__ import annotations

import re
from pathlib import Path

from running import PLUGINS, Run

from uss_bench.registry import Registry

ROOT = Path(__file__).parent.parent


def code_blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_method_of_the_plugin_guide_runs(tmp_path):
    folder = tmp_path / "my_method"
    folder.mkdir()
    (folder / "spec.toml").write_text(code_blocks("docs/plugins.md", "toml")[0])
    (folder / "my_method.py").write_text(code_blocks("docs/plugins.md", "python")[0])
    run = Run(Registry([folder, PLUGINS]), tmp_path)
    outcome = run("my-method", params={"steps": 60})
    assert outcome.record.last is not None
    assert outcome.record.curves["loss"]


def test_the_readme_gives_the_two_commands_that_the_checks_run():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker in ("main job", "tests"):
        assert re.search(rf"<!-- {marker} -->\n```sh\n.*?\n```", text, flags=re.DOTALL)
