"""The two settings that a comparison names, or why they cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from uss_bench.collection import Entry, Setting, TableKey, choose, gather, read_entries
from uss_bench.errors import DataError, UsageError
from uss_bench.record_files import find_record, read_record

_NO_BACKBONE = "none"
_SHOWN = 12


@dataclass(frozen=True)
class Query:
    """Where to look, and what both sides must be; None fits all."""

    folders: Sequence[Path]
    dataset: str | None = None
    backbone: str | None = None
    """Methods that use no backbone fit every name."""
    protocol: str | None = None


def find_sides(a: str, b: str, query: Query) -> tuple[Setting, Setting, list[str]]:
    """Return the settings that `a` and `b` name, and what is wrong with unreadable records.

    Each is a method's name, a setting's label, or a record's path or the beginning of its id. Where
    names fit several settings, the one pair of the same table and backbone is meant, if there is one.

    Raises:
        UsageError: when a name fits nothing or several, or the two are not of one table.
        DataError: when the two hold different images all the same.
    """
    entries, broken = read_entries(query.folders)
    settings = gather(entries)
    fits_a, fits_b = (_fitting(name, settings, query) for name in (a, b))
    pairs = [
        (one, other)
        for one in fits_a
        for other in fits_b
        if one.entries != other.entries and one.table == other.table and _share_backbone(one, other)
    ]
    if len(pairs) > 1:
        raise _ambiguous(a, b, fits_a, fits_b)
    if not pairs:
        if len(fits_a) > 1 or len(fits_b) > 1:
            raise _ambiguous(a, b, fits_a, fits_b)
        pairs = [(fits_a[0], fits_b[0])]
    one, other = pairs[0]
    if one.entries == other.entries:
        raise UsageError(
            f"'{a}' and '{b}' are the same records.", hint="Name two settings, or two seeds by id."
        )
    _refuse_different_tables(one, other)
    if _images(one) != _images(other):
        raise DataError(f"{one.entries[0].path} and {other.entries[0].path} do not hold the same images.")
    return one, other, broken


def _fitting(name: str, settings: Sequence[Setting], query: Query) -> list[Setting]:
    record = _record(name, settings, query.folders)
    if record is not None:
        return [record]
    if not settings:
        places = ", ".join(str(folder) for folder in query.folders)
        raise UsageError(
            f"There are no scored records in {places}.",
            hint="Say where they lie with --records DIR, or make one: uss-bench run …",
        )
    fitting = choose(settings, method=name, dataset=query.dataset, protocol=query.protocol)
    if query.backbone is None:
        return fitting
    without = [one for one in fitting if one.cell.backbone.name == _NO_BACKBONE]
    return without or choose(fitting, backbone=query.backbone)


def _record(name: str, settings: Sequence[Setting], folders: Sequence[Path]) -> Setting | None:
    """Return the one record that `name` is the path or id of, as a setting; None if it is a name."""
    if any(name in (one.cell.method.name, one.label) for one in settings):
        return None
    try:
        path = find_record(name, list(folders))
    except DataError as error:
        if error.hint is None:  # the text fits several records, rather than none
            raise
        return None
    entry = Entry(path, read_record(path))
    alone = gather([entry])
    if not alone:
        raise DataError(f"{path} has no scores: its images had no labels, or the run failed.")
    known = [one.label for one in settings if entry.record.id in {each.id for each in one.records}]
    return replace(alone[0], label=f"{(known or [alone[0].label])[0]} seed {entry.record.cell.seed}")


def _share_backbone(one: Setting, other: Setting) -> bool:
    names = {one.cell.backbone.name, other.cell.backbone.name} - {_NO_BACKBONE}
    return len(names) <= 1


def _ambiguous(a: str, b: str, fits_a: Sequence[Setting], fits_b: Sequence[Setting]) -> UsageError:
    name, fitting = (a, fits_a) if len(fits_a) >= len(fits_b) else (b, fits_b)
    lines = [
        f"'{one.label}'  {one.table.dataset}  {one.cell.backbone.name}  {one.table.protocol}"
        for one in fitting[:_SHOWN]
    ]
    if len(fitting) > _SHOWN:
        lines.append(f"and {len(fitting) - _SHOWN} more")
    listing = "\n    ".join(lines)
    return UsageError(
        f"'{name}' fits {len(fitting)} settings:\n    {listing}",
        hint="Give a label in quotes, or add --dataset, --backbone or --protocol.",
    )


def _refuse_different_tables(one: Setting, other: Setting) -> None:
    for field in fields(TableKey):
        left, right = getattr(one.table, field.name), getattr(other.table, field.name)
        if left != right:
            raise UsageError(
                f"The two are not of one table: {field.name.replace('_', ' ')} is {left} for {one.label}, "
                f"and {right} for {other.label}.",
                hint="Results under different protocols, images or splits are never compared.",
            )


def _images(setting: Setting) -> list[str]:
    return setting.entries[0].arrays.image_ids
