"""``uss-bench show``: records, as a table, as data, or one in full."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import DIR, common, warn_skipped
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench show
  uss-bench show 1a556007
  uss-bench show --columns label,dataset,refinement,miou
  uss-bench show --per-class --format csv > classes.csv
  uss-bench show --taxonomy cityscapes7 --columns label,clusters,classes,extra_clusters,refinement,miou
"""


@click.command("show", epilog=EPILOG, short_help="Show records: all of them, or one in full.")
@click.argument("record", required=False)
@click.option(
    "--records",
    "--out",
    "out",
    type=DIR,
    default="results",
    metavar="DIR",
    help="Folder of records. Default: results.",
)
@click.option(
    "--columns",
    metavar="A,B,…",
    help="Show only these columns: label, dataset, seed, refinement, miou, params, path, …",
)
@click.option(
    "--taxonomy",
    metavar="NAME",
    help="Score under other classes of the dataset, such as cityscapes7.",
)
@click.option("--per-class", is_flag=True, help="Show a row for each class, with IoU, precision and recall.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "csv", "json"]),
    default="text",
    show_default=True,
    help="Output format.",
)
@common
def command(
    registry: Registry,
    record: str | None,
    out: Path,
    columns: str | None,
    taxonomy: str | None,
    per_class: bool,
    kind: str,
) -> None:
    """Show the records of a folder in a table, or one RECORD in full: its path, or the start of its id.

    A record is stale when its method's code has changed since it was made. As data there is a row for each
    record, checkpoint and refinement, with the columns of uss_bench.records() in Python.
    """
    from uss_bench.cli.output import summary
    from uss_bench.results.code import CurrentCode
    from uss_bench.results.collection import read_entries
    from uss_bench.results.files import find_record, read_record

    as_data = kind != "text" or columns is not None or per_class or taxonomy is not None
    if record is not None:
        if as_data:
            raise UsageError("--columns, --taxonomy, --per-class and --format are for all records.")
        path = find_record(record, [out])
        click.echo(summary.record_page(read_record(path), path))
        return
    if as_data:
        click.echo(_data(out, columns, per_class, kind, taxonomy), nl=kind == "text")
        return
    entries, broken = read_entries([out], failed=True)
    records = [entry.record for entry in entries]
    if not records and not broken:
        click.echo(f"No records in {out}. Make one: uss-bench run --method smooseg --dataset toy3")
        return
    code = CurrentCode(registry)
    stale = {record.id for record in records if code.is_stale(record.cell)}
    click.echo(summary.records_table(records, stale))
    warn_skipped(broken)


def _data(out: Path, columns: str | None, per_class: bool, kind: str, taxonomy: str | None) -> str:
    """Return the records as a table, as CSV, or as a JSON array."""
    from uss_bench.api.records import records
    from uss_bench.cli.output.tables import table
    from uss_bench.runtime.formatting import MISSING, value_text
    from uss_bench.runtime.text import csv_text

    frame = records(out, per_class=per_class, taxonomy=taxonomy)
    chosen = list(frame.columns) if columns is None else [name.strip() for name in columns.split(",")]
    for name in chosen:
        if name not in frame.columns:
            raise UsageError(f"There is no column '{name}'.", hint=did_you_mean(name, list(frame.columns)))
    frame = frame[chosen]
    if kind == "json":
        return f"{frame.to_json(orient='records', indent=1, force_ascii=False)}\n"
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    if kind == "csv":
        plain = [[value_text(one) if isinstance(one, dict) else one for one in row] for row in rows]
        return csv_text([chosen, *plain])
    shown = [[MISSING if one is None else _shown(one) for one in row] for row in rows]
    return table(shown, chosen)


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
