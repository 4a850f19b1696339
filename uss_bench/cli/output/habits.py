"""What ``uss-bench audit habits`` prints."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from uss_bench.audit.habits import Habit, Price
from uss_bench.cli.output.tables import NOT_YET, method_title, place, table
from uss_bench.results.scores import METRICS, Metric
from uss_bench.runtime.formatting import plural, with_interval
from uss_bench.statistics.comparing import Difference, Verdict

_WORDS: Mapping[Verdict, str] = {"better": "gains", "worse": "loses", "tied": "cannot be told"}
_NOTHING = "changes nothing"
_SUMMARY = ["habit", "instead of", "Acc", "mIoU", "over", "in mIoU it"]
_DETAIL = ["method", "on", "seeds", "Acc", "mIoU", "in mIoU it"]


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
            rows = sorted(_detail(habit, one, titles) for one in found)
            parts.append(f"### {title}" if markdown else title)
            parts.append(table(rows, _DETAIL, align="llrrrl", markdown=markdown))
    return "\n\n".join(parts)


def _summary(habit: Habit, found: Sequence[Price]) -> list[str]:
    row = [habit.title, habit.without]
    if not found:
        return [*row, NOT_YET, NOT_YET, "", ""]
    told = Counter(_outcome(one.gained["miou"]) for one in found)
    return [
        *row,
        *(_span(metric, found) for metric in METRICS),
        plural(len(found), "configuration"),
        ", ".join(f"{word} in {told[word]}" for word in [*_WORDS.values(), _NOTHING] if told[word]),
    ]


def _span(metric: Metric, found: Sequence[Price]) -> str:
    values = [one.gained[metric].value for one in found]
    return f"{statistics.fmean(values):+.1f} ({min(values):+.1f} … {max(values):+.1f})"


def _outcome(difference: Difference) -> str:
    nothing = difference.value == difference.interval.low == difference.interval.high == 0
    return _NOTHING if nothing else _WORDS[difference.verdict]


def _detail(habit: Habit, price: Price, titles: Mapping[str, str]) -> list[str]:
    one = price.configuration
    setting = "" if habit.main_only else one.label.removeprefix(one.cell.method.name)
    return [
        method_title(one.cell.method.name, titles) + setting,
        place(one),
        str(len(one.entries)),
        *(_gained(price.gained[metric]) for metric in METRICS),
        _outcome(price.gained["miou"]),
    ]


def _gained(difference: Difference) -> str:
    return with_interval(difference.value, difference.interval.low, difference.interval.high)
