"""Which records a figure shows: those that were asked for, and never two tables in one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uss_bench import progress
from uss_bench.collection import Entry, Setting, TableKey, choose, gather, read_entries
from uss_bench.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a user asks for, in names; None or nothing fits all."""

    folders: Sequence[Path]
    methods: Sequence[str] = ()
    """Names or whole labels, in the order in which a figure shows them."""
    datasets: Sequence[str] = ()
    backbone: str | None = None
    protocol: str | None = None


def select(query: Query, **params: Any) -> list[Setting]:
    """Return the settings below `query.folders` that fit, and whose parameters have the values of `params`.

    Raises:
        UsageError: when there are no scored records, or none fits.
    """
    entries, broken = read_entries(query.folders)
    for message in broken:
        progress.log(f"skipped: {message}")
    settings = gather(entries)
    if not settings:
        places = ", ".join(str(folder) for folder in query.folders)
        raise UsageError(
            f"There are no scored records in {places}.",
            hint="Say where they lie with --records DIR, or make one: uss-bench run …",
        )
    datasets: Sequence[str | None] = query.datasets or [None]
    fixed = [
        one
        for name in datasets
        for one in choose(settings, dataset=name, backbone=query.backbone, protocol=query.protocol)
    ]
    if not query.methods:
        return choose(fixed, params=params)
    chosen = [one for name in query.methods for one in choose(fixed, method=name, params=params)]
    return list({one.entries[0].record.id: one for one in chosen}.values())


def one_table(settings: Sequence[Setting]) -> TableKey:
    """Return the table of all `settings`.

    Raises:
        UsageError: when they are of more than one, saying in what the tables differ.
    """
    tables = sorted({setting.table for setting in settings})
    if len(tables) == 1:
        return tables[0]
    fields = [name for name in TableKey.__dataclass_fields__ if len({getattr(t, name) for t in tables}) > 1]
    if "dataset" in fields:
        names = sorted({table.dataset for table in tables})
        what, hint = f"datasets ({', '.join(names)})", f"Choose one: --dataset {names[0]}"
    elif "protocol_hash" in fields:
        names = sorted({table.protocol for table in tables})
        what, hint = f"protocols ({', '.join(names)})", f"Choose one: --protocol '{names[0]}'"
    else:
        named = " and ".join(name.replace("_", " ") for name in fields)
        what = f"versions of {tables[0].dataset}: they differ in {named}"
        hint = "Keep them in folders of their own, and choose one: --records DIR"
    raise UsageError(f"These records are of several {what}; results are never compared across.", hint=hint)


def only(settings: Sequence[Setting]) -> Setting:
    """Return the only setting.

    Raises:
        UsageError: when there are several, of one table or more.
    """
    one_table(settings)
    if len(settings) > 1:
        raise UsageError(
            f"{len(settings)} settings fit, and this figure shows one: {', '.join(names(settings))}.",
            hint=f"Choose one: --method '{settings[0].label}'"
            + ("" if len({one.label for one in settings}) > 1 else " and --backbone NAME"),
        )
    return settings[0]


def of_seed(settings: Sequence[Setting], seed: int | None) -> list[Entry]:
    """Return one record of each setting: that of `seed`, or of the lowest one it has.

    Raises:
        UsageError: when a setting has no record of the seed.
    """
    found = []
    for setting in settings:
        if seed is not None and seed not in setting.seeds:
            known = ", ".join(map(str, setting.seeds))
            raise UsageError(f"{setting.label} has no record of seed {seed}; it has {known}.")
        found.append(setting.entries[0 if seed is None else setting.seeds.index(seed)])
    return found


def names(settings: Sequence[Setting]) -> list[str]:
    """Return what a figure calls each setting: its label, with the backbone where labels repeat."""
    times = Counter(setting.label for setting in settings)
    return [
        f"{one.label} · {one.cell.backbone.name}" if times[one.label] > 1 else one.label for one in settings
    ]


def describe(settings: Sequence[Setting]) -> str:
    """Return the part of a caption that says what was measured, for settings of one table."""
    table, first = settings[0].table, settings[0].records[0]
    backbones = sorted({one.cell.backbone.name for one in settings} - {"none"})
    seeds = sorted({seed for one in settings for seed in one.seeds})
    parts = [f"{table.dataset} ({table.test_split}, {first.images} images)", table.protocol, *backbones]
    return f"{', '.join(parts)}; {_seeds(seeds)}"


def describe_entries(entries: Sequence[Entry]) -> str:
    """Return the same as `describe` for single records."""
    return describe([Setting((entry,), "") for entry in entries])


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2:
        return f"seeds {seeds[0]}–{seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
