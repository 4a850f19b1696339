"""Write leaderboards/published.toml, the plan of all published runs, from the methods' pages.

With ``--check`` nothing is written: the script fails if the plan is out of date.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLAN = ROOT / "leaderboards" / "published.toml"
ROOTS = {
    **dict.fromkeys(("cocostuff27", "cocostuff15", "cocostuff3"), "data/coco"),
    "cityscapes27": "data/cityscapes",
    "potsdam3": "data/potsdam",
}
HEAD = """# Every run that a method's page lists as published, as one plan; docs/published.py writes it.
#
#     uss-bench run --plan leaderboards/published.toml --out results/published --dry-run
#     uss-bench run --plan leaderboards/published.toml --out results/published --launcher slurm --jobs 8
#     uss-bench regress claims --records results/published
#
# Data are expected below data/, as the roots say, and depth maps below data/depth: make links, or change the
# roots. Weights are downloaded. The dry run estimates time, disk and FLOP; what a run should give is on its
# method's page. Official checkpoints come first, for they need no training: uss-bench import-state.

name = "published"
"""
_COMMAND = re.compile(r"^\| `(uss-bench run --method [^`]+)` \|", re.M)


def commands() -> list[str]:
    """Return the commands of the tables of published runs, each once, by method."""
    pages = sorted((ROOT / "methods").glob("*/README.md"))
    found = (command for page in pages for command in _COMMAND.findall(page.read_text(encoding="utf-8")))
    return list(dict.fromkeys(found))


def run_table(command: str) -> dict[str, Any]:
    """Return a command as a table of a plan."""
    words = iter(shlex.split(command)[2:])
    table: dict[str, Any] = {}
    for option in words:
        name, value = option.removeprefix("--").replace("-", "_"), next(words)
        if name in ("data", "aux", "set", "training"):
            key, _, text = value.partition("=")
            table.setdefault(name, {})[key] = _value(text)
        else:
            table[name] = int(value) if name in ("seed", "seeds", "limit") else value
    dataset = table["dataset"]
    table["root"] = ROOTS[dataset]
    if "aux" in table:
        table["aux"] = {channel: f"data/{channel}/{dataset}" for channel in table["aux"]}
    return table


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def plan_text() -> str:
    parts = [HEAD]
    for command in commands():
        lines = [f"{name} = {_toml(value)}" for name, value in run_table(command).items()]
        parts.append("\n".join(["[[runs]]", *lines]) + "\n")
    return "\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def problems() -> Iterator[str]:
    if not PLAN.exists() or PLAN.read_text(encoding="utf-8") != plan_text():
        yield f"{PLAN.relative_to(ROOT)} is out of date: run nox -s docs"


def main() -> int:
    if "--check" not in sys.argv:
        PLAN.write_text(plan_text(), encoding="utf-8")
        return 0
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
