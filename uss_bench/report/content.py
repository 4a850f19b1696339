"""What stands in a report, from the records to the sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.errors import UsageError
from uss_bench.plots import classes, confusion, curves
from uss_bench.report import tables
from uss_bench.report.document import Block, Code, Document, Picture, Section, Text
from uss_bench.results.collection import Configuration, Entry, TableKey, gather, is_scored
from uss_bench.results.files import read_record
from uss_bench.results.selection import names


def document(paths: Sequence[Path]) -> Document:
    """Return the report of the records at `paths`: seeds of one configuration together, tables apart.

    Raises:
        UsageError: when a record is of a failed run, or has no scores.
        DataError: when a record or what belongs to it cannot be read.
    """
    entries = [Entry(path, read_record(path)) for path in paths]
    for entry in entries:
        if entry.record.status != "done":
            raise UsageError(f"{entry.path} is of a failed run: there is nothing to report.")
        if not is_scored(entry.record):
            raise UsageError(f"{entry.path} has no scores: no pixel of its test images has a label.")
    groups: dict[TableKey, list[Configuration]] = {}
    for one in gather(entries):
        groups.setdefault(one.table, []).append(one)
    methods = ", ".join(dict.fromkeys(one.cell.method.name for group in groups.values() for one in group))
    datasets = ", ".join(dict.fromkeys(table.dataset for table in groups))
    sections = [section for table, group in groups.items() for section in _table_sections(table, group)]
    return Document(f"{methods} on {datasets}", sections)


def _table_sections(table: TableKey, group: Sequence[Configuration]) -> list[Section]:
    records = [record for one in group for record in one.records]
    kind = tables.refinements(group)[-1]
    about = Text(
        f"{records[0].images} images of split {table.test_split}, under protocol {table.protocol} "
        f"({table.protocol_hash}). Clusters were matched to classes once, on the whole test set."
    )
    by_class = classes.draw(group, "iou", kind)
    picture = Picture(f"{_slug(table)}-classes", by_class, classes.caption(group, "iou", kind))
    scores: list[Block] = [about, tables.score_table(group), tables.interval_table(group), picture]
    return [
        Section(f"{table.dataset}, {table.protocol}", scores),
        *(Section(name, _blocks(one), level=3) for name, one in zip(names(group), group, strict=True)),
        Section("Protocol", [tables.protocol_table(records[0])], level=3),
        Section("Parameters", [tables.params_table(group)], level=3),
        Section("Environment", [tables.environment_table(records)], level=3),
        Section("To repeat it", _commands(group), level=3),
    ]


def _blocks(one: Configuration) -> list[Block]:
    kind = tables.refinements([one])[-1]
    slug = f"{_slug(one.table)}-{one.entries[0].record.id[:8]}"
    matrix = confusion.draw(confusion.confusion(one, kind))
    blocks: list[Block] = [
        tables.identity_table(one),
        tables.seed_table(one),
        tables.class_table(one),
        Picture(f"{slug}-confusion", matrix, confusion.caption(one, kind)),
    ]
    if any(record.curves for record in one.records):
        blocks.append(Picture(f"{slug}-curves", curves.draw([one]), curves.caption([one])))
    if candidates := tables.candidate_table(one):
        blocks.append(candidates)
    for entry in one.entries:
        seed, panel = entry.record.cell.seed, entry.path.with_suffix(".png")
        if panel.is_file():
            caption = (
                f"Images, ground truth and predictions in the colors of the matched classes; seed {seed}."
            )
            blocks.append(Picture(f"{slug}-panel-{seed}", panel.read_bytes(), caption))
    return blocks


def _commands(group: Sequence[Configuration]) -> list[Block]:
    records = [record for one in group for record in one.records]
    commands = dict.fromkeys(record.command for record in records if record.command)
    commits = dict.fromkeys(str(record.environment.get("git", "")) for record in records)
    known = ", ".join(filter(None, commits))
    blocks: list[Block] = [Text(f"From commit {known}:")] if known else []
    missing = Text("The records do not say how they were made.")
    return [*blocks, Code("\n".join(commands)) if commands else missing]


def _slug(table: TableKey) -> str:
    return f"{table.dataset}-{table.protocol_hash[:6]}"
