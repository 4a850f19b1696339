"""``uss-bench show``: records, all of them in a table or one in full."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import common, out_option
from uss_bench.registry import Registry


@click.command("show", short_help="Show records: all of them, or one in full.")
@click.argument("record", required=False)
@out_option("Where to look for records. Default: results.")
@common
def command(registry: Registry, record: str | None, out: Path) -> None:
    """Show the records under --out in a table, or one RECORD in full: its path, or the start of its id.

    A record is stale when its method's code has changed since it was made.
    """
    from uss_bench import summary
    from uss_bench.errors import DataError
    from uss_bench.provenance import current_codes, is_stale
    from uss_bench.record_files import find_record, read_record, record_files

    if record is not None:
        path = find_record(record, [out])
        click.echo(summary.record_page(read_record(path), path))
        return
    records, broken = [], []
    for path in record_files(out):
        try:
            records.append(read_record(path))
        except DataError as error:
            broken.append(str(error))
    if not records and not broken:
        click.echo(f"No records in {out}. Make one: uss-bench run --method smooseg --dataset toy3")
        return
    codes = current_codes((record.cell.method for record in records), registry)
    stale = {record.id for record in records if is_stale(record.cell.method, codes)}
    click.echo(summary.records_table(records, stale))
    for message in broken:
        click.echo(f"{click.style('skipped', fg='yellow')}  {message}", err=True)
