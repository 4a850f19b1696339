"""Options that the figures of ``uss-bench plot`` share, and how a figure is handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uss_bench.cli.options import FILE, gathered, label_option, parse_labels, records_option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

C = TypeVar("C", bound=Callable[..., Any])


def selection(*, one_method: bool = False, opened: bool = False) -> Callable[[C], C]:
    """Add --out and the options that choose records; the command receives `query` and `out`.

    `common` stands above it: the registry is needed for the methods' titles.

    Args:
        one_method: --method is required and given once; else it may be repeated, and all is the default.
        opened: the command opens a dataset, so --dataset and --backbone are its own.
    """

    def collect(options: dict[str, Any]) -> dict[str, Any]:
        from uss_bench.plots.style import check_target
        from uss_bench.results.selection import Query

        check_target(options["out"])
        methods = options.pop("methods")
        query = Query(
            folders=options.pop("folders"),
            methods=[methods] if one_method else methods,
            protocol=options.pop("protocol"),
            datasets=() if opened else options.pop("datasets"),
            backbone=None if opened else options.pop("wanted_backbone"),
            titles={**options["registry"].titles(), **parse_labels(options.pop("labels"))},
        )
        return {"query": query}

    options = _selection_options(one_method, opened)
    return lambda command: gathered(command, options, collect)


def _selection_options(one_method: bool, opened: bool) -> Sequence[Callable[[Any], Any]]:
    method = "A method, or a label with parameters."
    if not one_method:
        method += " May be repeated. Default: all."
    chosen = [
        click.option(
            "--dataset",
            "datasets",
            multiple=True,
            metavar="NAME",
            help="Only records on this dataset. May be repeated.",
        ),
        click.option("--backbone", "wanted_backbone", metavar="NAME", help="Only records on this backbone."),
    ]
    return [
        click.option(
            "--method", "methods", multiple=not one_method, required=one_method, metavar="NAME", help=method
        ),
        *([] if opened else chosen),
        click.option("--protocol", metavar="NAME", help="Only records under this protocol."),
        records_option,
        label_option,
        click.option(
            "--out", required=True, type=FILE, metavar="FILE", help="Figure file: .pdf, .png or .svg."
        ),
    ]


def raw(command: C) -> C:
    """Add --raw; the command receives `refinement`."""
    return click.option(
        "--raw", "refinement", flag_value="raw", default="crf", help="Use scores before the CRF."
    )(command)


def write(canvas: Figure, out: Path, caption: str) -> None:
    """Save a figure and print its caption."""
    from uss_bench.plots.style import save

    save(canvas, out)
    click.echo(f"figure  {out}\ncaption {caption}")
