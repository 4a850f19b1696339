"""``uss-bench report``: a page about records."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import FILE, common, records_option
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench report 9023702c 14a318d8 --out appendix.html
  uss-bench report results/toy3/smooseg-s*.json --out appendix.md
"""


@click.command("report", epilog=EPILOG)
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option(
    "--out",
    required=True,
    type=FILE,
    metavar="FILE",
    help="Page to write: .html (one file), or .md (with a folder of pictures).",
)
@records_option
@common
def command(registry: Registry, records: tuple[str, ...], folders: tuple[Path, ...], out: Path) -> None:
    """Write a page about some records, for a paper's appendix: paths, or the starts of ids.

    It holds scores with intervals, classes, confusion, curves, checkpoints and pictures, and everything
    needed to repeat the runs: protocol, parameters, environment, digests and commands. Records of the same
    configuration are seeds of one experiment; different datasets or protocols get tables of their own.
    """
    from uss_bench.report.writing import check_target, write_report
    from uss_bench.results.files import find_record

    check_target(out)
    paths = [find_record(text, list(folders)) for text in records]
    written = write_report(paths, out)
    click.echo(f"report   {written[-1]}")
    if len(written) > 1:
        click.echo(f"pictures {written[0].parent} ({len(written) - 1})")
