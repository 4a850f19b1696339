"""What ``uss-bench audit backbones`` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from uss_bench.audit.backbones import TwoWay
from uss_bench.cli.output.tables import table
from uss_bench.results.scores import METRICS
from uss_bench.runtime.formatting import mean_sd, plural


def backbones_text(tables: Sequence[TwoWay], *, markdown: bool = False) -> str:
    """Return, per table, Acc / mIoU of each method on each backbone, and the shares of variance."""
    return "\n\n".join(_one(each, markdown) for each in tables)


def _one(found: TwoWay, markdown: bool) -> str:
    title = f"{found.table.dataset} · {found.table.protocol} · {plural(len(found.seeds), 'seed')}"
    cells = [[[mean_sd(seeds) for seeds in row] for row in found.scores[metric]] for metric in METRICS]
    rows = [
        [name, *(f"{accuracy} / {miou}" for accuracy, miou in zip(*of_method, strict=True))]
        for name, *of_method in zip(found.rows, *cells, strict=True)
    ]
    scores = table(rows, ["", *found.backbones], markdown=markdown)
    parts = [f"### {title}" if markdown else title, scores]
    headers = ["share of the variance", "method", "backbone", "both together", "seed"]
    shares = []
    for metric, name in METRICS.items():
        share = found.shares(metric)
        values = (share.method, share.backbone, share.both, share.seed)
        shares.append([name] + ["–" if math.isnan(value) else f"{100 * value:.0f} %" for value in values])
    parts.append(table(shares, headers, align="lrrrr", markdown=markdown))
    parts += [f"Left out: {name}, not measured on {', '.join(which)}." for name, which in found.left_out]
    return "\n\n".join(parts)
