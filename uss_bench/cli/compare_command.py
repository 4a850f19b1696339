"""``uss-bench compare``: whether one setting is better than another, or the data cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, records_option
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.collection import Setting
    from uss_bench.records import Refinement

EPILOG = """\b
Examples:
  uss-bench compare smooseg dino --dataset toy3
  uss-bench compare 'smooseg (standardize=true)' dino --dataset camvid --crf
  uss-bench compare smooseg dino --dataset toy3 --plot difference.pdf
"""


@click.command("compare", epilog=EPILOG, short_help="Say whether one setting is better than another.")
@click.argument("a")
@click.argument("b")
@click.option("--dataset", metavar="NAME", help="Only records on this dataset.")
@click.option("--backbone", metavar="NAME", help="Only records on this backbone, or on none.")
@click.option("--protocol", metavar="NAME", help="Only records under this protocol.")
@records_option
@click.option("--raw/--crf", "raw", default=None, help="Only before, or only after the CRF. Default: both.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the differences with their intervals: .pdf, .png or .svg.",
)
@common
def command(
    registry: Registry,
    a: str,
    b: str,
    dataset: str | None,
    backbone: str | None,
    protocol: str | None,
    folders: tuple[Path, ...],
    raw: bool | None,
    plot: Path | None,
) -> None:
    """Compare A with B on the same images: overall and per class, with intervals and a verdict.

    A and B are methods, labels of settings, or records (a path, or the start of an id). Images are drawn
    again a thousand times and clusters matched anew each time, for both sides alike; the spread over
    seeds is added to that. Where the data cannot tell, it says how much more would be needed.
    """
    from uss_bench.statistics.report import Versus, as_text
    from uss_bench.statistics.sides import Query, find_sides

    if plot is not None:
        from uss_bench.plots.style import figure_format

        figure_format(plot)
    one, other, broken = find_sides(a, b, Query(folders, dataset, backbone, protocol))
    for message in broken:
        click.echo(f"{click.style('skipped', fg='yellow')}  {message}", err=True)
    versus = Versus.of(one, other, _refinements(one, other, raw))
    click.echo(as_text(versus))
    if plot is not None:
        from uss_bench.plots.style import save
        from uss_bench.statistics.figure import draw

        save(draw(versus), plot)
        click.echo(f"\nplot    {plot}")


def _refinements(one: Setting, other: Setting, raw: bool | None) -> list[Refinement]:
    """Return what is compared: what was asked, or both, as far as both sides have it."""
    if raw is not None:
        return ["raw" if raw else "crf"]
    refined = all(record.last and record.last.crf for side in (one, other) for record in side.records)
    return ["raw", "crf"] if refined else ["raw"]
