"""Write README.md's tables of measured numbers from the committed records; with ``--check`` only compare.

Which runs stand in them is decided here by what was run, not by what came out: the budgets of
leaderboards/records/README.md, all of whose seeds count.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import msgspec
from parts import table, update

from uss_bench.collection import FLOORS, Setting, gather, read_entries
from uss_bench.statistics.comparing import Comparison, compare

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
RECORDS = ROOT / "leaderboards" / "records"

METHODS = ("ds2dl", "smooseg", "stego", "dino", *sorted(FLOORS, reverse=True))
SETS = {
    "CamVid, K = 11": ("camvid", "dinov2s14-imgfocus"),
    "COCO, K = 27": ("cocostuff27", "dinov2s14-imgfocus"),
    "Dubai, K = 5": ("dubai", "dinov2s14-imgfocus"),
    "toy27": ("toy27", "tinyvit"),
    "toy3": ("toy3", "tinyvit"),
}
TUNED_ON = {("ds2dl", "camvid")}
STUDIES = 300
"""Steps of the ablations' runs, which are no rows of the main table."""


@cache
def settings() -> list[Setting]:
    """Return the committed settings that have all three seeds, under protocols as they are published."""
    entries, broken = read_entries([RECORDS])
    if broken:
        raise SystemExit("\n".join(broken))
    return [one for one in gather(entries) if len(one.seeds) == 3 and "[" not in one.cell.protocol]


def main_setting(method: str, dataset: str, backbone: str) -> Setting:
    """Return the one setting of a method's row: its budget, as many clusters as classes, default features."""
    found = [one for one in settings() if _is_main(one, method, dataset, backbone)]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} settings of {method} on {dataset}: {[one.label for one in found]}")
    return found[0]


def _is_main(one: Setting, method: str, dataset: str, backbone: str) -> bool:
    cell, params = one.cell, one.cell.method.params
    trained = method not in FLOORS and method != "dino"
    as_meant = not trained or (params.get("standardize") and params.get("steps") != STUDIES)
    return (
        (cell.method.name, cell.dataset.name) == (method, dataset)
        and (method in FLOORS or cell.backbone.name == backbone)
        and one.records[0].clusters == len(one.records[0].classes)
        and as_meant
    )


def scores(one: Setting) -> tuple[list[float], list[float]]:
    """Return accuracy and mIoU of every seed, in percent, last checkpoint, with CRF."""
    rows = [record.last.crf for record in one.records if record.last is not None and record.last.crf]
    return [row.accuracy for row in rows], [row.miou for row in rows]


def spread(values: list[float]) -> str:
    """Write the mean, and the standard deviation where there is one."""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.1f} ± {deviation:.1f}" if deviation else f"{mean:.1f}"


def main_table() -> str:
    """Return the main table: Acc / mIoU of every method on every set."""
    rows: list[tuple[object, ...]] = []
    for method in METHODS:
        row: list[object] = [f"`{method}`" + ", k-means" * (method == "dino")]
        for dataset, backbone in SETS.values():
            accuracy, miou = scores(main_setting(method, dataset, backbone))
            tuned = " (tuned here)" * ((method, dataset) in TUNED_ON)
            row.append(f"{spread(accuracy)} / {spread(miou)}{tuned}")
        rows.append(tuple(row))
    return table(("", *SETS), rows, "l" * (1 + len(SETS)))


def pairs() -> Iterator[tuple[Setting, Setting]]:
    """Yield the settings on features as they are, each with its twin on standardised ones."""
    by_cell = {_identity(one, None): one for one in settings()}
    for one in settings():
        if one.cell.method.params.get("standardize") is False:
            twin = by_cell.get(_identity(one, True))
            if twin is not None:
                yield one, twin


def _identity(one: Setting, standardize: bool | None) -> bytes:
    cell = one.cell
    params = dict(cell.method.params)
    if standardize is not None:
        params["standardize"] = standardize
    method = msgspec.structs.replace(cell.method, params=params)
    return msgspec.json.encode(msgspec.structs.replace(cell, method=method, seed=0), order="sorted")


def standardised_table() -> str:
    """Return what standardised features change: both halves of every pair, and the paired difference."""
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
        "standardised",
        "clusters in use",
        "standardising",
    )
    return table(headers, rows, "lllllll")


def _place(pair: tuple[Setting, Setting]) -> tuple[int, int]:
    cell = pair[0].cell
    return [*SETS.values()].index((cell.dataset.name, cell.backbone.name)), METHODS.index(cell.method.name)


def clusters(one: Setting) -> str:
    """Return how many clusters are in use before the CRF, over the seeds, as boards do."""
    used = [record.last.raw.clusters_used for record in one.records if record.last is not None]
    return str(min(used)) if min(used) == max(used) else f"{min(used)}-{max(used)}"


def verdict(
    compared: Comparison, accuracy: tuple[list[float], list[float]], miou: tuple[list[float], list[float]]
) -> str:
    """Say which way a pair holds: all seeds above all others, or an interval that excludes 0; else a dash.

    Args:
        accuracy, miou: of the standardised half, and of the other.
    """
    words = []
    sides = (("accuracy", compared.accuracy, accuracy), ("mIoU", compared.miou, miou))
    for name, difference, (on, off) in sides:
        if min(on) > max(off) or (difference.verdict == "better"):
            words.append(f"{name} up {abs(difference.value):.1f}")
        elif max(on) < min(off) or (difference.verdict == "worse"):
            words.append(f"{name} **down** {abs(difference.value):.1f}")
    return ", ".join(words) or "cannot be told"


PARTS: dict[str, Callable[[], str]] = {"measured": main_table, "standardised": standardised_table}


if __name__ == "__main__":
    sys.exit(update(PAGE, PARTS, "docs/measured.py"))
