"""``uss-bench compare``: whether one configuration is better than another, or the data cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import FILE, common, label_option, parse_labels, records_option
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.results.collection import Configuration
    from uss_bench.results.record import Refinement
    from uss_bench.results.selection import Query

EPILOG = """\b
Examples:
  uss-bench compare smooseg dino --dataset toy3
  uss-bench compare 'smooseg (standardize=true)' dino --dataset camvid --crf
  uss-bench compare smooseg dino --dataset toy3 --plot difference.pdf
  uss-bench compare --all --dataset toy3 --format csv
"""


@click.command("compare", epilog=EPILOG, short_help="Say whether one configuration is better than another.")
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option("--all", "everybody", is_flag=True, help="Compare all methods of one table pairwise.")
@click.option("--dataset", metavar="NAME", help="Only records on this dataset.")
@click.option("--backbone", metavar="NAME", help="Only records on this backbone, or on none.")
@click.option("--protocol", metavar="NAME", help="Only records under this protocol.")
@records_option
@label_option
@click.option(
    "--raw/--crf", "raw", default=None, help="Only scores before, or only after the CRF. Default: both."
)
@click.option(
    "--plot",
    type=FILE,
    metavar="FILE",
    help="Also draw the differences with their intervals: .pdf, .png or .svg.",
)
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
    a: str | None,
    b: str | None,
    everybody: bool,
    dataset: str | None,
    backbone: str | None,
    protocol: str | None,
    folders: tuple[Path, ...],
    labels: tuple[str, ...],
    raw: bool | None,
    plot: Path | None,
    kind: str,
) -> None:
    """Compare A with B on the same images: overall and per class, with intervals and a verdict.

    A and B are methods, labels of configurations, or records (a path, or the start of an id). Images are
    drawn again a thousand times and clusters matched anew each time, for both sides alike; the spread over
    seeds is added. Where the data cannot tell, it says how much more would be needed.

    With --all every method of a table is compared with every other at its stated setting, and p-values are
    corrected for the number of pairs.
    """
    from uss_bench.errors import UsageError
    from uss_bench.results.selection import Query

    if plot is not None:
        from uss_bench.plots.style import check_target

        check_target(plot)
    query = Query(
        folders=folders,
        datasets=[] if dataset is None else [dataset],
        backbone=backbone,
        protocol=protocol,
        titles=registry.titles() | parse_labels(labels),
    )
    if everybody:
        if a is not None:
            raise UsageError("Name two configurations, or --all, and not both.")
        _compare_all(registry, query, raw, plot, kind)
    elif a is None or b is None:
        raise UsageError("Two configurations are needed.", hint="uss-bench compare smooseg dino, or --all.")
    else:
        _compare_two(a, b, query, raw, plot, kind)


def _compare_two(a: str, b: str, query: Query, raw: bool | None, plot: Path | None, kind: str) -> None:
    from uss_bench.cli.output import compare as output
    from uss_bench.results.selection import select_pair
    from uss_bench.statistics.comparing import Versus

    one, other = select_pair(a, b, query)
    versus = Versus.of(one, other, _refinements([one, other], raw))
    if kind == "text":
        click.echo(output.as_text(versus))
    else:
        click.echo(output.as_data(output.rows_of(versus), kind), nl=kind == "json")
    if plot is not None:
        from uss_bench.plots.differences import draw
        from uss_bench.plots.style import save

        save(draw(versus), plot)
        click.echo(f"\nplot    {plot}", err=kind != "text")


def _compare_all(registry: Registry, query: Query, raw: bool | None, plot: Path | None, kind: str) -> None:
    from uss_bench.cli.output import compare as output
    from uss_bench.errors import UsageError
    from uss_bench.results.selection import one_table, select
    from uss_bench.results.stated import StatedSettings, main_settings
    from uss_bench.statistics.pairs import pairs

    found = main_settings(select(replace(query, counts=True)), StatedSettings(registry))
    one_table(found)
    if len(found) < 2:
        raise UsageError("There is one method in this table: nothing to compare it with.")
    refinement = _refinements(found, raw)[-1]
    matrix = pairs(found, refinement)
    if kind == "text":
        click.echo(output.pairs_text(matrix))
    else:
        click.echo(output.as_data(output.rows_of_pairs(matrix), kind), nl=kind == "json")
    if plot is not None:
        from uss_bench.plots.pairs import draw
        from uss_bench.plots.style import save

        save(draw(matrix), plot)
        click.echo(f"\nplot    {plot}", err=kind != "text")


def _refinements(sides: Sequence[Configuration], raw: bool | None) -> list[Refinement]:
    """Return what is compared: what was asked, or both, as far as all sides have it."""
    from uss_bench.results.scores import score_row

    if raw is not None:
        return ["raw" if raw else "crf"]
    records = [record for side in sides for record in side.records]
    return ["raw", "crf"] if all(score_row(record, "crf") for record in records) else ["raw"]
