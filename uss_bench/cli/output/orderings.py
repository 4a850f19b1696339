"""What ``uss-bench audit orderings`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from uss_bench.audit.orderings import Ordering, Printed, Side, Tested
from uss_bench.cli.output.tables import method_title, table
from uss_bench.runtime.formatting import assignments, plural

_HEADERS = ["papers print", "ahead in print", "on", "here", "95 % interval", "so it"]


def orderings_text(
    orderings: Sequence[Ordering],
    tested: Sequence[Tested],
    titles: Mapping[str, str],
    *,
    markdown: bool = False,
) -> str:
    """Return a row per ordering and table of records, and a summary; mIoU in points.

    Args:
        titles: what people call methods, by name.
    """
    rows = [
        [
            f"{_name(one.ordering.better, titles)} > {_name(one.ordering.worse, titles)}",
            _ahead(one.ordering.printed),
            f"{one.table.dataset} · {one.backbone}",
            f"{one.difference.value:+.1f}",
            f"{one.difference.interval.low:+.1f} to {one.difference.interval.high:+.1f}",
            one.outcome,
        ]
        for one in tested
    ]
    counts = Counter(one.outcome for one in tested)
    reached = {id(one.ordering) for one in tested}
    summary = (
        f"Papers print {plural(len(orderings), 'ordering')} in mIoU. These records hold both sides of "
        f"{len(reached)}, on {plural(len({one.table for one in tested}), 'table')}: {counts['holds']} hold, "
        f"{counts['does not']} do not, {counts['cannot be told']} cannot be told."
    )
    return f"{table(rows, _HEADERS, align='lllrll', markdown=markdown)}\n\n{summary}" if rows else summary


def _name(side: Side, titles: Mapping[str, str]) -> str:
    name = method_title(side.method, titles)
    name = f"{name} {assignments(dict(side.changed))}" if side.changed else name
    return name if side.refined else f"{name} without CRF"


def _ahead(printed: Sequence[Printed]) -> str:
    low, high = min(one.ahead for one in printed), max(one.ahead for one in printed)
    span = f"{low:+.1f}" if low == high else f"{low:+.1f} to {high:+.1f}"
    papers = len({one.paper for one in printed})
    return f"{span}, {plural(papers, 'paper')}"
