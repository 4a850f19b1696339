"""What ``uss-bench audit habits`` prints."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from uss_bench.audit.habits import Habit, Price
from uss_bench.cli.output.tables import table
from uss_bench.results.scores import METRICS, Metric
from uss_bench.runtime.formatting import plural
from uss_bench.statistics.comparing import Difference, Verdict

NOT_YET = "not measured yet"
_WORDS: Mapping[Verdict, str] = {"better": "gains", "worse": "loses", "tied": "cannot be told"}
_SUMMARY = ["habit", "instead of", "Acc", "mIoU", "over", "mIoU"]
_DETAIL = ["method", "on", "seeds", "Acc", "mIoU", "mIoU"]


def habits_text(
    priced: Mapping[Habit, Sequence[Price]], titles: Mapping[str, str], *, markdown: bool = False
) -> str:
    """Return a row per habit, and below it a table per habit that was measured, in percent points.

    Args:
        titles: what people call methods, by name.
    """
    parts = [table([_summary(one, found) for one, found in priced.items()], _SUMMARY, markdown=markdown)]
    for habit, found in priced.items():
        if found:
            title = habit.title[0].upper() + habit.title[1:]
            rows = sorted(_detail(one, titles) for one in found)
            parts.append(f"### {title}" if markdown else title)
            parts.append(table(rows, _DETAIL, align="llrrrl", markdown=markdown))
    return "\n\n".join(parts)


def _summary(habit: Habit, found: Sequence[Price]) -> list[str]:
    row = [habit.title, habit.without]
    if not found:
        return [*row, NOT_YET, NOT_YET, "", ""]
    told = Counter(_WORDS[one.gained["miou"].verdict] for one in found)
    return [
        *row,
        *(_span(metric, found) for metric in METRICS),
        plural(len(found), "configuration"),
        ", ".join(f"{told[word]} {word}" for word in _WORDS.values() if told[word]),
    ]


def _span(metric: Metric, found: Sequence[Price]) -> str:
    values = [one.gained[metric].value for one in found]
    return f"{statistics.fmean(values):+.1f} ({min(values):+.1f} … {max(values):+.1f})"


def _detail(price: Price, titles: Mapping[str, str]) -> list[str]:
    one = price.configuration
    name = titles.get(one.cell.method.name, one.cell.method.name)
    name = name.replace("{backbone}", "its backbone") + one.label.removeprefix(one.cell.method.name)
    return [
        name,
        f"{one.cell.dataset.name} · {one.cell.backbone.name}",
        str(len(one.entries)),
        *(_with_interval(price.gained[metric]) for metric in METRICS),
        _WORDS[price.gained["miou"].verdict],
    ]


def _with_interval(difference: Difference) -> str:
    interval = difference.interval
    return f"{difference.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"
