"""Write the tables of measured numbers in README.md and docs/results.md from the committed records.

With ``--check`` they are only compared.

Which runs stand in them is decided here by what was run, not by what came out: the budgets of
leaderboards/records/README.md, all of whose seeds count.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from parts import table, update

from uss_bench.audit.backbones import two_way
from uss_bench.audit.orderings import printed_orderings, tested_orderings
from uss_bench.audit.patterns import printed_removals, readings
from uss_bench.claims import load_claims
from uss_bench.cli.output.backbones import backbones_text
from uss_bench.cli.output.orderings import orderings_text
from uss_bench.cli.output.patterns import readings_text
from uss_bench.experiment.studies import known_studies
from uss_bench.plugins.params import method_params, training_geometry
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Configuration, gather, read_entries, shared_identity
from uss_bench.results.feature_record import FeatureRow, read_feature_records
from uss_bench.results.scores import METRICS, score_row
from uss_bench.results.stated import StatedSettings
from uss_bench.runtime.formatting import mean_sd
from uss_bench.statistics.comparing import Comparison, compare

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "features.md")
RECORDS = ROOT / "leaderboards" / "records"

TRAINED = ("ds2dl", "smooseg", "stego")
FLOORS = ("random", "constant")
METHODS = (*TRAINED, "dino", *FLOORS)
SETS = {
    "CamVid, K = 11": ("camvid", "dinov2s14-imgfocus"),
    "COCO, K = 27": ("cocostuff27", "dinov2s14-imgfocus"),
    "Dubai, K = 5": ("dubai", "dinov2s14-imgfocus"),
    "toy27": ("toy27", "tinyvit"),
    "toy3": ("toy3", "tinyvit"),
}
TUNED_ON = {("ds2dl", "camvid")}
STUDIES = 300
"""Steps of the ablations' runs, which do not stand in the main table."""
BUDGET = {"steps", "checkpoint_every", "batch_size", "optimizer", "trained on"}
"""What a row may set otherwise than its method states; of several such rows the nearest to it counts."""


@cache
def everything() -> list[Configuration]:
    """Return all committed configurations."""
    entries, broken = read_entries([RECORDS])
    if broken:
        raise SystemExit("\n".join(broken))
    return gather(entries)


@cache
def whole() -> list[Configuration]:
    """Return those that have all three seeds."""
    return [one for one in everything() if len(one.seeds) == 3]


@cache
def committed() -> list[Configuration]:
    """Return those under protocols as published."""
    return [one for one in whole() if "[" not in one.cell.protocol]


def main_configuration(method: str, dataset: str, backbone: str) -> Configuration:
    """Return the one configuration of a method's row: its budget, K = C, default features."""
    found = [one for one in committed() if _is_main(one, method, dataset, backbone)]
    nearest = min((len(_changed(one)) for one in found), default=0)
    found = [one for one in found if len(_changed(one)) == nearest]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} of {method} on {dataset}: {[one.label for one in found]}")
    return found[0]


def _is_main(one: Configuration, method: str, dataset: str, backbone: str) -> bool:
    cell = one.cell
    return (
        (cell.method.name, cell.dataset.name) == (method, dataset)
        and (method in FLOORS or cell.backbone.name == backbone)
        and (method not in TRAINED or cell.method.params.get("steps") != STUDIES)
        and _changed(one) <= BUDGET
    )


@cache
def _registry() -> Registry:
    return Registry()


@cache
def _stated() -> StatedSettings:
    return StatedSettings(_registry())


def _changed(one: Configuration) -> set[str]:
    """Return the parameters that are not as the method states them; those of newer code do not count."""
    cell = one.cell
    due = _stated()(one.records[0]) or {}
    changed = {name for name, value in due.items() if cell.method.params.get(name, value) != value}
    where = {"dataset": cell.dataset.name, "backbone": cell.backbone.name}
    own = training_geometry(_registry().method(cell.method.name)[0], {}, **where)
    return changed | ({"trained on"} if cell.training != own else set())


def scores(one: Configuration) -> list[list[float]]:
    """Return accuracy and mIoU of every seed, in percent, last checkpoint, with CRF."""
    rows = [score_row(record, "crf") for record in one.records]
    return [[getattr(row, metric) for row in rows] for metric in METRICS]


def spread(values: list[float]) -> str:
    """Write the mean, and the standard deviation where the seeds differ."""
    return mean_sd(values) if statistics.stdev(values) else f"{values[0]:.1f}"


def main_table() -> str:
    """Return the main table: Acc / mIoU of every method on every set."""
    rows: list[tuple[object, ...]] = []
    for method in METHODS:
        row: list[object] = [f"`{method}`" + ", k-means" * (method == "dino")]
        for dataset, backbone in SETS.values():
            accuracy, miou = scores(main_configuration(method, dataset, backbone))
            tuned = " (tuned here)" * ((method, dataset) in TUNED_ON)
            row.append(f"{spread(accuracy)} / {spread(miou)}{tuned}")
        rows.append(tuple(row))
    return table(("", *SETS), rows, "l" * (1 + len(SETS)))


def orderings() -> str:
    """Return which orderings that papers print hold on the committed records."""
    registry = Registry()
    found = printed_orderings(load_claims())
    tested = tested_orderings(found, committed(), StatedSettings(registry))
    return orderings_text(found, tested, registry.titles(), markdown=True)


def readings_of_ds2dl() -> str:
    """Return which readings of DS²DL's text show the pattern of its Table 2."""
    registry = Registry()
    settings = {row.label: row.params for row in known_studies(registry)["ds2dl-readings"].plan.settings}
    removals = printed_removals(load_claims(), "ds2dl", "Table 2")
    defaults = method_params(registry.find("methods", "ds2dl"), None, {}, n_classes=2)
    found = readings(whole(), "ds2dl", settings, removals, defaults)
    return readings_text(settings, removals, found, markdown=True)


def backbones() -> str:
    """Return how much of a score is the method, and how much the backbone."""
    found = two_way(one for one in whole() if one.cell.method.name not in FLOORS)
    return backbones_text(found, markdown=True) or "No two methods have met the same two backbones yet."


def pairs() -> Iterator[tuple[Configuration, Configuration]]:
    """Yield the configurations on features as they are, each with its twin on standardized ones."""
    with_it = {
        shared_identity(one.cell, "standardize"): one
        for one in committed()
        if one.cell.method.params.get("standardize")
    }
    for one in committed():
        twin = with_it.get(shared_identity(one.cell, "standardize"))
        if one.cell.method.params.get("standardize") is False and twin is not None:
            yield one, twin


def standardized_table() -> str:
    """Return what standardized features change: both halves of every pair, and the paired difference."""
    rows: list[tuple[object, ...]] = []
    for off, on in sorted(pairs(), key=_place):
        compared = compare(on.counts(), off.counts(), on.records[0].protocol)
        (acc_off, miou_off), (acc_on, miou_on) = scores(off), scores(on)
        rows.append(
            (
                off.cell.backbone.name,
                off.cell.dataset.name,
                f"`{off.cell.method.name}`",
                f"{spread(acc_off)} / {spread(miou_off)}",
                f"{spread(acc_on)} / {spread(miou_on)}",
                f"{clusters(off)} → {clusters(on)} of {off.records[0].clusters}",
                verdict(compared, (acc_on, acc_off), (miou_on, miou_off)),
            )
        )
    headers = (
        "backbone",
        "data",
        "method",
        "as they are",
        "standardized",
        "clusters in use",
        "standardizing",
    )
    return table(headers, rows, "lllllll")


def _place(pair: tuple[Configuration, Configuration]) -> tuple[int, int]:
    cell = pair[0].cell
    return [*SETS.values()].index((cell.dataset.name, cell.backbone.name)), METHODS.index(cell.method.name)


def clusters(one: Configuration) -> str:
    """Return how many clusters are in use before the CRF, over the seeds, as boards do."""
    used = [row.clusters_used for record in one.records if (row := score_row(record, "raw")) is not None]
    return str(min(used)) if min(used) == max(used) else f"{min(used)}-{max(used)}"


def verdict(
    compared: Comparison, accuracy: tuple[list[float], list[float]], miou: tuple[list[float], list[float]]
) -> str:
    """Say which way a pair holds: all seeds above all others, or an interval that excludes 0; else a dash.

    Args:
        accuracy, miou: of the standardized half, and of the other.
    """
    words = []
    sides = (("accuracy", compared.accuracy, accuracy), ("mIoU", compared.miou, miou))
    for name, difference, (on, off) in sides:
        if min(on) > max(off) or (difference.verdict == "better"):
            words.append(f"{name} up {abs(difference.value):.1f}")
        elif max(on) < min(off) or (difference.verdict == "worse"):
            words.append(f"{name} **down** {abs(difference.value):.1f}")
    return ", ".join(words) or "no difference found"


MEASURES = {
    "k-means, K = C": ("kmeans", None),
    "PCA": ("pca", None),
    "position-free": ("position-free", None),
    "K = 100": ("over-clustering", 100),
    "K = 300": ("over-clustering", 300),
    "retrieval": ("retrieval", None),
    "probe": ("probe", None),
}
"""Columns of the table of features: measure, and K where there are several."""


def features() -> str:
    """Return the mIoU of every measure by data set and backbone, cheapest backbone first."""
    found, broken = read_feature_records([RECORDS])
    if broken:
        raise SystemExit("\n".join(broken))

    def score(rows: Sequence[FeatureRow], measure: str, clusters: int | None) -> str:
        (row,) = (one for one in rows if one.measure == measure and clusters in (None, one.clusters))
        return f"{row.scores.miou:.1f}"

    records = [record for _, record in found]
    places = [name for name, _ in dict.fromkeys(SETS.values())]
    records.sort(key=lambda one: (places.index(one.cell.dataset.name), one.cost.seconds))
    rows = [
        (
            one.cell.dataset.name,
            one.cell.backbone.name,
            f"{1000 * one.cost.seconds:.0f} ms",
            *(score(one.rows, *which) for which in MEASURES.values()),
        )
        for one in records
    ]
    return table(("data", "backbone", "an image", *MEASURES), rows, "ll" + "r" * (1 + len(MEASURES)))


PARTS: dict[str, Callable[[], str]] = {
    "measured": main_table,
    "orderings": orderings,
    "readings": readings_of_ds2dl,
    "backbones": backbones,
    "standardized": standardized_table,
    "features": features,
}


if __name__ == "__main__":
    sys.exit(max([update(page, PARTS, "docs/measured.py") for page in PAGES]))
