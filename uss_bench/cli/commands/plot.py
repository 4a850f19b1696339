"""``uss-bench plot``: figures of records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common
from uss_bench.cli.output.pictures import embedding, panels
from uss_bench.cli.plot_options import raw, selection, write
from uss_bench.experiment.command_line import parse_pairs
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.plots.numbers import ClassMetric
    from uss_bench.results.record import Refinement
    from uss_bench.results.scores import Metric
    from uss_bench.results.selection import Query

EPILOG = """\b
Examples:
  uss-bench plot classes --dataset toy3 --method dino --method smooseg --out classes.pdf
  uss-bench plot sensitivity --method ds2dl --param r --dataset toy3 --out r.pdf
  uss-bench plot panels --dataset toy3 --method dino --method smooseg --out panels.pdf
"""


@click.group("plot", epilog=EPILOG)
def command() -> None:
    """Draw a figure of records, for a paper: PDF, PNG or SVG, as wide as a column or a page.

    A figure shows the last checkpoint of all seeds, and its caption is printed. What is compared with
    each other is always of one dataset, split and protocol.
    """


@command.command("sensitivity", short_help="Draw Acc and mIoU against the values of a parameter.")
@common
@click.option("--param", required=True, metavar="NAME", help="The parameter whose values are compared.")
@click.option(
    "--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="Only records with this parameter."
)
@raw
@selection(one_method=True)
def sensitivity(
    registry: Registry,
    query: Query,
    param: str,
    set_pairs: tuple[str, ...],
    refinement: Refinement,
    out: Path,
) -> None:
    """Acc and mIoU against the values of a parameter, with bands over seeds; one column per dataset."""
    fixed = parse_pairs(set_pairs, "--set")

    from uss_bench.plots import sensitivity as plot
    from uss_bench.results.selection import select

    chosen = select(dataclasses.replace(query, refinement=refinement), **fixed)
    found = plot.sweeps(chosen, param.replace("-", "_"))
    write(plot.draw(found, refinement), out, plot.caption(found, refinement))


@command.command("classes", short_help="Draw scores per class, a bar for each method.")
@common
@raw
@click.option("--metric", type=click.Choice(["iou", "precision", "recall"]), default="iou", show_default=True)
@selection()
def classes(registry: Registry, query: Query, metric: ClassMetric, refinement: Refinement, out: Path) -> None:
    """Draw scores per class: a bar for each method, with a line from the lowest seed to the highest."""
    from uss_bench.plots import classes as plot
    from uss_bench.results.selection import select

    configurations = select(dataclasses.replace(query, refinement=refinement))
    write(
        plot.draw(configurations, metric, refinement), out, plot.caption(configurations, metric, refinement)
    )


@command.command("confusion", short_help="Draw where the pixels of each class went.")
@common
@raw
@selection(one_method=True)
def confusion(registry: Registry, query: Query, refinement: Refinement, out: Path) -> None:
    """Draw where the pixels of each class went: shares by true and matched class, mean over seeds."""
    from uss_bench.plots import confusion as plot
    from uss_bench.results.selection import only, select

    configuration = only(select(dataclasses.replace(query, counts=True)))
    write(plot.draw(plot.confusion(configuration, refinement)), out, plot.caption(configuration, refinement))


@command.command("overview", short_help="Draw methods against datasets.")
@common
@raw
@selection()
def overview(registry: Registry, query: Query, refinement: Refinement, out: Path) -> None:
    """Draw methods against datasets: mean and deviation over seeds, the best of each dataset bold.

    A method has one row, at the setting that it states; all settings have one where there is one method.
    """
    from uss_bench.plots import overview as plot
    from uss_bench.results.selection import select
    from uss_bench.results.stated import StatedSettings, main_settings

    configurations = select(dataclasses.replace(query, refinement=refinement))
    main = main_settings(configurations, StatedSettings(registry))
    found = plot.overview(main if len(main) > 1 else configurations)
    write(plot.draw(found, refinement), out, plot.caption(found, refinement))


@command.command("cost", short_help="Draw a score against training time and memory.")
@common
@raw
@click.option("--metric", type=click.Choice(["miou", "accuracy"]), default="miou", show_default=True)
@selection()
def cost(registry: Registry, query: Query, metric: Metric, refinement: Refinement, out: Path) -> None:
    """Draw a score against training time, and against peak memory."""
    from uss_bench.plots import cost as plot
    from uss_bench.results.selection import select

    configurations = select(dataclasses.replace(query, refinement=refinement))
    write(
        plot.draw(configurations, metric, refinement), out, plot.caption(configurations, metric, refinement)
    )


@command.command("curves", short_help="Draw what was reported while methods trained.")
@common
@selection()
def curves(registry: Registry, query: Query, out: Path) -> None:
    """Draw training curves: a panel for each scalar that was reported, a line per seed."""
    from uss_bench.plots import curves as plot
    from uss_bench.results.selection import select

    configurations = select(query)
    methods = {one.cell.method.name for one in configurations} & set(registry.names("methods"))
    symbols = {name: registry.method(name)[0].symbols for name in methods}
    write(plot.draw(configurations, symbols), out, plot.caption(configurations))


command.add_command(panels)
command.add_command(embedding)
