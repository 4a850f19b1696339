"""``uss-bench errors``: what became of each class, and how much the matching decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from uss_bench.cli.options import common, records_option
from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.command_line import parse_pairs
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench errors results/toy3/smooseg-s0-9023702cb7a7.json
  uss-bench errors smooseg --dataset toy3 --records leaderboards/records
  uss-bench errors dino --dataset toy3 --format csv > errors.csv
"""


@click.command("errors", epilog=EPILOG, short_help="Attribute the errors of a run to classes.")
@click.argument("target", metavar="RECORD|METHOD")
@click.option("--dataset", metavar="NAME", help="Only records on this dataset.")
@click.option("--backbone", metavar="NAME", help="Only records on this backbone.")
@click.option("--protocol", metavar="NAME", help="Only records under this protocol.")
@click.option(
    "--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="Only records with this parameter."
)
@records_option
@click.option("--raw", is_flag=True, help="Use predictions before the CRF.")
@click.option(
    "--resamples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of the images, to count how often a class keeps its cluster.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv"]),
    default="table",
    show_default=True,
    help="Output format; csv has one row per seed, class and measure.",
)
@common
def command(
    registry: Registry,
    target: str,
    dataset: str | None,
    backbone: str | None,
    protocol: str | None,
    set_pairs: tuple[str, ...],
    folders: tuple[Path, ...],
    raw: bool,
    resamples: int,
    form: Literal["table", "md", "csv"],
) -> None:
    """Show what became of each class, and how much the matching decides.

    Per class: the classes that its pixels are counted as, over how many clusters they are spread, and how
    often it keeps its cluster when the test images are drawn again. Below, the same counts under freer
    matchings, up to an oracle that matches every image for itself.
    """
    from uss_bench.cli.output.errors import as_csv, as_text, attribute
    from uss_bench.results.selection import Query, read_alone, select

    params = parse_pairs(set_pairs, "--set")
    if dataset is not None:
        query = Query(
            folders=folders,
            methods=[target],
            datasets=[dataset],
            backbone=backbone,
            protocol=protocol,
            titles=registry.titles(),
            counts=True,
        )
        configurations = select(query, **params)
    elif backbone or protocol or params:
        raise UsageError("--backbone, --protocol and --set narrow a METHOD, which needs --dataset.")
    else:
        configurations = [read_alone(_find(target, folders))]
    found = [attribute(one, "raw" if raw else "crf", resamples=resamples) for one in configurations]
    if form == "csv":
        click.echo(as_csv(found), nl=False)
    else:
        click.echo("\n\n".join(as_text(one, markdown=form == "md") for one in found))


def _find(target: str, folders: Sequence[Path]) -> Path:
    from uss_bench.results.files import find_record

    try:
        return find_record(target, list(folders))
    except DataError as error:
        raise DataError(
            error.what, hint="Or name a method and a dataset: uss-bench errors METHOD --dataset NAME."
        ) from None
