"""Write the tables of docs/habits.md from the committed records, and from what CAUSE's third phase left.

With ``--check`` they are only compared.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from measured import ROOT, everything
from parts import table, update

from uss_bench.audit.habits import HABITS, prices
from uss_bench.cli.output.habits import habits_text
from uss_bench.cli.output.tables import NOT_YET
from uss_bench.plugins.registry import Registry
from uss_bench.results.stated import StatedSettings
from uss_bench.runtime.formatting import with_interval
from uss_bench.statistics.intervals import student_reach

PAGE = ROOT / "docs" / "habits.md"
LEAKS = ROOT / "leaderboards" / "habits"
"""Where ``benchmarks/cause_leak.py --out`` puts its files, which are no records."""


def habits() -> str:
    """Return what each habit gives."""
    registry = Registry()
    stated, configurations = StatedSettings(registry), everything()
    priced = {one: prices(one, configurations, stated, registry.floors()) for one in HABITS}
    return habits_text(priced, registry.titles(), markdown=True)


def cause_leak(folder: Path = LEAKS) -> str:
    """Return what the label gradient of CAUSE's released third phase is worth."""
    rows: list[tuple[object, ...]] = []
    for path in sorted(folder.glob("cause-leak-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        arms = found["third_phase"]
        for arm, runs in arms.items():
            values = [[one[metric] for one in runs] for metric in ("accuracy", "miou")]
            base = [[one[metric] for one in arms["cut"]] for metric in ("accuracy", "miou")]
            gained = ["" if arm == "cut" else paired(*each) for each in zip(values, base, strict=True)]
            means = [f"{statistics.fmean(one):.1f}" for one in values]
            rows.append((found["dataset"], arm, len(runs), *means, *gained))
    headers = ("data", "third phase", "seeds", "Acc", "mIoU", "Acc gained", "mIoU gained")
    return table(headers, rows, "llrrrrr") if rows else f"The third phase is {NOT_YET}."


def paired(values: list[float], base: list[float]) -> str:
    """Return the mean difference, with Student's interval over seeds where there are two or more."""
    differences = [one - other for one, other in zip(values, base, strict=True)]
    mean, seeds = statistics.fmean(differences), len(differences)
    if seeds < 2:
        return f"{mean:+.1f}"
    reach = student_reach(statistics.variance(differences) / seeds, seeds - 1, 0.95)
    return with_interval(mean, mean - reach, mean + reach)


PARTS: dict[str, Callable[[], str]] = {"habits": habits, "cause_leak": cause_leak}


if __name__ == "__main__":
    sys.exit(update(PAGE, PARTS, "docs/habits.py"))
