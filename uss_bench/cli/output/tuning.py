"""What ``uss-bench tune`` and ``uss-bench audit criteria`` print."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import click

from uss_bench.cli.output.tables import table
from uss_bench.experiment.studies import Plan
from uss_bench.launch.planning import Planned
from uss_bench.results.collection import Configuration, Entry
from uss_bench.results.scores import METRICS, final_row
from uss_bench.runtime.formatting import MISSING, mean_sd, number
from uss_bench.statistics.criteria import COMBINED, CRITERIA, Choice, Reading, choose, read_setting

NAMES = {**CRITERIA, COMBINED: "all of them, by mean rank"}


def tuning_text(
    plan: Plan, cells: Sequence[Planned], results: Sequence[Entry | Exception], *, show_scores: bool
) -> str:
    """Return the criteria of every setting, and the setting that each of them prefers.

    Args:
        results: what became of the cells, in their order.
        show_scores: whether to show also what labels say.
    """
    first = cells[0].found
    where = f"{first.cell.dataset.name} · {first.cell.backbone.name} · {first.cell.protocol}"
    of_setting: dict[str, list[Entry | Exception]] = {row.label: [] for row in plan.rows}
    for one, result in zip(cells, results, strict=True):
        if one.setting in of_setting:
            of_setting[one.setting].append(result)
    readings: dict[str, Reading] = {}
    rows = []
    for label, found in of_setting.items():
        entries = [result for result in found if isinstance(result, Entry)]
        values: Mapping[str, float] = {}
        if len(entries) == len(found):
            readings[label] = read_setting(Configuration(tuple(entries), label))
            values = readings[label].values
        row = [label, f"{len(entries)} of {len(found)}", *(number(values.get(name), 3) for name in CRITERIA)]
        if show_scores:
            scored = [final_row(one.record) for one in entries if one.record.last is not None]
            row += [mean_sd([getattr(one, name) or 0.0 for one in scored]) for name in METRICS]
        rows.append(row)
    headers = ["setting", "seeds done", *CRITERIA.values(), *(METRICS.values() if show_scores else [])]
    text = [f"\n{click.style(f'{plan.title} · {first.title}', bold=True)}\n{where}\n"]
    text += [table(rows, headers, align="lr*"), ""]
    if len(readings) < len(of_setting):
        return "\n".join([*text, "Some settings lack records, so nothing is chosen.", ""])
    preferred = []
    for criterion, title in NAMES.items():
        chosen = choose(list(readings.values()), criterion)
        label = "cannot be read of these runs" if chosen is None else chosen.configuration.label
        preferred.append([title, click.style(label, bold=criterion == COMBINED)])
    text += [table(preferred, ["criterion", "prefers"])]
    return "\n".join([*text, *(["", "Scores use labels; nothing was chosen by them."] * show_scores), ""])


def criteria_text(choices: Sequence[Choice], *, markdown: bool = False) -> str:
    """Return how well each criterion chooses, over all groups of settings."""
    rows = []
    for criterion, title in NAMES.items():
        own = [one for one in choices if one.criterion == criterion]
        if not own:
            rows.append([title, "0", *[MISSING] * 4])
            continue
        best = sum(one.loss == 0 for one in own)
        correlations = [one.correlation for one in own if one.correlation == one.correlation]
        rows.append(
            [
                title,
                str(len(own)),
                f"{best} of {len(own)}",
                _spread([one.gain for one in own], sign="+"),
                _spread([one.loss for one in own]),
                _spread(correlations, digits=2) if correlations else MISSING,
            ]
        )
    headers = [
        "criterion",
        "groups",
        "best chosen",
        "over a blind one",
        "below the best",
        "rank correlation",
    ]
    return table(rows, headers, align="lr*", markdown=markdown)


def _spread(values: Sequence[float], *, sign: str = "", digits: int = 1) -> str:
    """Return ``mean (least to greatest)``."""
    form = f"{{:{sign}.{digits}f}}"
    low, high = (form.format(one) for one in (min(values), max(values)))
    return f"{form.format(statistics.fmean(values))} ({low} to {high})"
