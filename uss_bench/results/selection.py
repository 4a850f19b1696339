"""Which records are meant: those of a query, never two tables in one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.collection import (
    Configuration,
    Entry,
    TableKey,
    called,
    choose,
    gather,
    read_entries,
    with_counts,
)
from uss_bench.results.files import find_record, read_record
from uss_bench.results.record import Refinement
from uss_bench.results.scores import score_row
from uss_bench.runtime import progress

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a user asks for, in names; None or nothing fits all."""

    folders: Sequence[Path]
    methods: Sequence[str] = ()
    """Names or whole labels, in the order in which a figure shows them."""
    datasets: Sequence[str] = ()
    backbone: str | None = None
    protocol: str | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    """What people call methods, by name, in the order that gives them their colors."""
    counts: bool = False
    """Leave out records whose counts cannot be read."""
    refinement: Refinement | None = None
    """Leave out configurations without such scores, as label maps made elsewhere have none with CRF."""


def read_alone(path: Path) -> Configuration:
    """Return one record as a configuration.

    Raises:
        DataError: when it cannot be read or has no scores.
    """
    found = gather([Entry(path, read_record(path))])
    if not found:
        raise DataError(f"{path} has no scores: its images had no labels, or the run failed.")
    return found[0]


def select(query: Query, **params: Any) -> list[Configuration]:
    """Return the configurations that fit, and whose parameters have the values of `params`.

    Records that cannot be read are named and left out.

    Raises:
        UsageError: when there are no scored records, or none fits.
    """
    configurations, broken = _read(query.folders)
    datasets: Sequence[str | None] = query.datasets or [None]
    fixed = [
        one
        for name in datasets
        for one in choose(configurations, dataset=name, backbone=query.backbone, protocol=query.protocol)
    ]
    methods: Sequence[str | None] = query.methods or [None]
    chosen = [one for name in methods for one in choose(fixed, method=name, params=params)]
    found = list({one.entries[0].record.id: one for one in chosen}.values())
    if query.counts:
        found = with_counts(found, broken)
    _log_skipped(broken)
    if not found:
        raise UsageError(f"None of these records can be drawn. {broken[-1]}")
    return called(_with_refinement(found, query.refinement), query.titles)


def _with_refinement(
    configurations: Sequence[Configuration], refinement: Refinement | None
) -> list[Configuration]:
    """Return those with scores under a refinement, and say which have none; all, if none has any."""
    if refinement is None:
        return list(configurations)
    lacking = [one for one in configurations if not all(score_row(each, refinement) for each in one.records)]
    if not lacking or len(lacking) == len(configurations):
        return list(configurations)
    who = ", ".join(one.label for one in lacking)
    progress.log(f"Left out, without scores with CRF: {who}. --raw shows them, and the others beside them.")
    return [one for one in configurations if one not in lacking]


def select_pair(a: str, b: str, query: Query) -> tuple[Configuration, Configuration]:
    """Return the configurations that `a` and `b` name, which are to be compared.

    Each is a method's name, a configuration's label, or a record's path or the beginning of its id. Where
    names fit several, the one pair of the same table and backbone is meant, if there is one.

    Args:
        query: methods that use no backbone fit every backbone.

    Raises:
        UsageError: when a name fits nothing or several, or the two are not of one table.
        DataError: when the two hold different images all the same.
    """
    configurations, broken = _read(query.folders)
    fits_a, fits_b = (_fitting(name, configurations, query) for name in (a, b))
    pairs = [
        (one, other)
        for one in fits_a
        for other in fits_b
        if one.entries != other.entries and one.table == other.table and _share_backbone(one, other)
    ]
    if len(pairs) != 1 and (pairs or len(fits_a) > 1 or len(fits_b) > 1):
        raise _ambiguous(*max((a, fits_a), (b, fits_b), key=lambda named: len(named[1])))
    one, other = pairs[0] if pairs else (fits_a[0], fits_b[0])
    if one.entries == other.entries:
        raise UsageError(
            f"'{a}' and '{b}' are the same records.", hint="Name two configurations, or two seeds by id."
        )
    counted = with_counts((one, other), broken)
    _log_skipped(broken)
    if len(counted) < 2:
        raise DataError(f"No counts of {a} and {b} can be compared: {broken[-1]}")
    one, other = called(counted, query.titles)
    _refuse_different_tables(one, other)
    if one.entries[0].arrays.image_ids != other.entries[0].arrays.image_ids:
        raise DataError(f"{one.entries[0].path} and {other.entries[0].path} do not hold the same images.")
    return one, other


def _read(folders: Sequence[Path]) -> tuple[list[Configuration], list[str]]:
    entries, broken = read_entries(folders)
    found = gather(entries)
    if not found:
        _log_skipped(broken)
        places = ", ".join(str(folder) for folder in folders)
        raise UsageError(
            f"There are no scored records in {places}.",
            hint="Give their folder with --records DIR, or make one: uss-bench run …",
        )
    return found, broken


def _log_skipped(broken: Sequence[str]) -> None:
    for message in broken:
        progress.log(f"skipped: {message}")


def _fitting(name: str, configurations: Sequence[Configuration], query: Query) -> list[Configuration]:
    record = _record(name, configurations, query.folders)
    if record is not None:
        return [record]
    dataset = query.datasets[0] if query.datasets else None
    fitting = choose(configurations, method=name, dataset=dataset, protocol=query.protocol)
    if query.backbone is None:
        return fitting
    without = [one for one in fitting if one.cell.backbone.name == NO_BACKBONE]
    return without or choose(fitting, backbone=query.backbone)


def _record(
    name: str, configurations: Sequence[Configuration], folders: Sequence[Path]
) -> Configuration | None:
    """Return the one record that `name` is the path or id of; None if it is a name."""
    if any(name in (one.cell.method.name, one.label) for one in configurations):
        return None
    try:
        path = find_record(name, list(folders))
    except DataError as error:
        if error.hint is None:  # the text fits several records, rather than none
            raise
        return None
    alone = read_alone(path)
    (record,) = alone.records
    known = [one.label for one in configurations if record.id in {each.id for each in one.records}]
    return replace(alone, label=f"{(known or [alone.label])[0]} seed {record.cell.seed}")


def _share_backbone(one: Configuration, other: Configuration) -> bool:
    names = {one.cell.backbone.name, other.cell.backbone.name} - {NO_BACKBONE}
    return len(names) <= 1


def _ambiguous(name: str, fitting: Sequence[Configuration]) -> UsageError:
    lines = [
        f"'{one.label}'  {one.table.dataset}  {one.cell.backbone.name}  {one.table.protocol}"
        for one in fitting[:_SHOWN]
    ]
    if len(fitting) > _SHOWN:
        lines.append(f"and {len(fitting) - _SHOWN} more")
    listing = "\n    ".join(lines)
    return UsageError(
        f"'{name}' fits {len(fitting)} configurations:\n    {listing}",
        hint="Give a label in quotes, or add --dataset, --backbone or --protocol.",
    )


def _refuse_different_tables(one: Configuration, other: Configuration) -> None:
    for part in fields(TableKey):
        left, right = getattr(one.table, part.name), getattr(other.table, part.name)
        if left != right:
            raise UsageError(
                f"The two are not of one table: {part.name.replace('_', ' ')} is {left} for {one.label}, "
                f"and {right} for {other.label}.",
                hint="Results under different protocols, images or splits are never compared.",
            )


def one_table(configurations: Sequence[Configuration]) -> TableKey:
    """Return the table of all configurations.

    Raises:
        UsageError: when they are of more than one, stating in what the tables differ.
    """
    tables = sorted({one.table for one in configurations})
    if len(tables) == 1:
        return tables[0]
    differing = [part.name for part in fields(TableKey) if len({getattr(t, part.name) for t in tables}) > 1]
    if "dataset" in differing:
        found = sorted({table.dataset for table in tables})
        what, hint = f"datasets ({', '.join(found)})", f"Choose one: --dataset {found[0]}"
    elif "protocol_hash" in differing:
        found = sorted({table.protocol for table in tables})
        what, hint = f"protocols ({', '.join(found)})", f"Choose one: --protocol '{found[0]}'"
    else:
        named = " and ".join(name.replace("_", " ") for name in differing)
        what = f"versions of {tables[0].dataset}: they differ in {named}"
        hint = "Keep them in folders of their own, and choose one: --records DIR"
    raise UsageError(f"These records are of several {what}; results are never compared across.", hint=hint)


def only(configurations: Sequence[Configuration]) -> Configuration:
    """Return the only configuration.

    Raises:
        UsageError: when there are several, of one table or more.
    """
    one_table(configurations)
    first = configurations[0]
    if len(configurations) > 1:
        alike = len({one.label for one in configurations}) == 1
        raise UsageError(
            f"{len(configurations)} configurations fit, and this figure shows one: "
            f"{', '.join(names(configurations))}.",
            hint=f"Choose one: --method '{first.label}'" + (" and --backbone NAME" if alike else ""),
        )
    return first


def of_seed(configurations: Sequence[Configuration], seed: int | None) -> list[Entry]:
    """Return one record of each configuration: that of `seed`, or of the lowest one it has.

    Raises:
        UsageError: when a configuration has no record of the seed.
    """
    found = []
    for one in configurations:
        if seed is not None and seed not in one.seeds:
            known = ", ".join(map(str, one.seeds))
            raise UsageError(f"{one.label} has no record of seed {seed}; it has {known}.")
        found.append(one.entries[0 if seed is None else one.seeds.index(seed)])
    return found


def names(configurations: Sequence[Configuration]) -> list[str]:
    """Return what a figure calls each configuration, with the backbone where names repeat."""
    named = [one.name for one in configurations]
    times = Counter(named)
    return [
        f"{name} · {one.cell.backbone.name}" if times[name] > 1 else name
        for name, one in zip(named, configurations, strict=True)
    ]


def describe(configurations: Sequence[Configuration]) -> str:
    """Return the part of a caption that states what was measured, for configurations of one table."""
    table, first = configurations[0].table, configurations[0].records[0]
    backbones = sorted({one.cell.backbone.name for one in configurations} - {NO_BACKBONE})
    seeds = sorted({seed for one in configurations for seed in one.seeds})
    parts = [f"{table.dataset} ({table.test_split}, {first.images} images)", table.protocol, *backbones]
    return f"{', '.join(parts)}; {_seeds(seeds)}"


def describe_entries(entries: Sequence[Entry]) -> str:
    """Return the same as `describe` for single records."""
    return describe([Configuration((entry,), "") for entry in entries])


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2:
        return f"seeds {seeds[0]}–{seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
