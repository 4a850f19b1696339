"""What stands in a report, from the records to the sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.collection import Entry, Setting, TableKey, gather
from uss_bench.errors import UsageError
from uss_bench.plots import classes, confusion, curves
from uss_bench.plots.selection import names
from uss_bench.record_files import read_record
from uss_bench.report import tables
from uss_bench.report.document import Block, Code, Document, Picture, Section, Text


def document(paths: Sequence[Path]) -> Document:
    """Return the report of the records at `paths`: seeds of one setting together, tables apart.

    Raises:
        UsageError: when a record is of a failed run, or has no scores.
        DataError: when a record or what belongs to it cannot be read.
    """
    entries = [Entry(path, read_record(path)) for path in paths]
    for entry in entries:
        if entry.record.status != "done":
            raise UsageError(f"{entry.path} is of a failed run: there is nothing to report.")
        if entry.record.last is None:
            raise UsageError(f"{entry.path} has no scores, because its dataset has no labels.")
    groups: dict[TableKey, list[Setting]] = {}
    for setting in gather(entries):
        groups.setdefault(setting.table, []).append(setting)
    sections: list[Section] = []
    for table, settings in groups.items():
        sections += _table_sections(table, settings)
    methods = ", ".join(dict.fromkeys(one.cell.method.name for group in groups.values() for one in group))
    datasets = ", ".join(dict.fromkeys(table.dataset for table in groups))
    return Document(f"{methods} on {datasets}", sections)


def _table_sections(table: TableKey, settings: Sequence[Setting]) -> list[Section]:
    first = settings[0].records[0]
    kind = tables.refinements(settings)[-1]
    about = Text(
        f"{first.images} images of split {table.test_split}, under protocol {table.protocol} "
        f"({table.protocol_hash}). Clusters were matched to classes once, on the whole test set."
    )
    scores = Section(f"{table.dataset}, {table.protocol}")
    scores.blocks += [about, tables.score_table(settings), tables.interval_table(settings)]
    caption = classes.caption(settings, "iou", kind)
    scores.blocks.append(Picture(f"{_slug(table)}-classes", classes.draw(settings, "iou", kind), caption))
    found = [scores]
    for name, setting in zip(names(settings), settings, strict=True):
        found.append(_setting_section(name, setting))
    records = [record for setting in settings for record in setting.records]
    found += [
        Section("Protocol", [tables.protocol_table(first)], level=3),
        Section("Parameters", [tables.params_table(settings)], level=3),
        Section("Environment", [tables.environment_table(records)], level=3),
        Section("To repeat it", _commands(settings), level=3),
    ]
    return found


def _setting_section(name: str, setting: Setting) -> Section:
    kind = tables.refinements([setting])[-1]
    slug = f"{_slug(setting.table)}-{setting.entries[0].record.id[:8]}"
    blocks: list[Block] = [
        tables.identity_table(setting),
        tables.seed_table(setting),
        tables.class_table(setting),
    ]
    figure = confusion.draw(confusion.confusion(setting, kind))
    blocks.append(Picture(f"{slug}-confusion", figure, confusion.caption(setting, kind)))
    if any(record.curves for record in setting.records):
        blocks.append(Picture(f"{slug}-curves", curves.draw([setting]), curves.caption([setting])))
    candidates = tables.candidate_table(setting)
    if candidates is not None:
        blocks.append(candidates)
    for entry in setting.entries:
        panel = entry.path.with_suffix(".png")
        if panel.is_file():
            seed = entry.record.cell.seed
            caption = (
                f"Images, ground truth and predictions in the colours of the matched classes; seed {seed}."
            )
            blocks.append(Picture(f"{slug}-panel-{seed}", panel.read_bytes(), caption))
    return Section(name, blocks, level=3)


def _commands(settings: Sequence[Setting]) -> list[Block]:
    commands = dict.fromkeys(
        record.command for setting in settings for record in setting.records if record.command
    )
    commits = dict.fromkeys(
        str(record.environment.get("git", "")) for setting in settings for record in setting.records
    )
    known = ", ".join(commit for commit in commits if commit)
    blocks: list[Block] = [Text(f"From commit {known}:")] if known else []
    blocks.append(
        Code("\n".join(commands)) if commands else Text("The records do not say how they were made.")
    )
    return blocks


def _slug(table: TableKey) -> str:
    return f"{table.dataset}-{table.protocol_hash[:6]}"
