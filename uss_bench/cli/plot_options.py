"""Options that the figures of ``uss-bench plot`` share, and how a figure is handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uss_bench.cli.options import records_option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

C = TypeVar("C", bound=Callable[..., Any])


def selection(*, one_method: bool = False, opened: bool = False) -> Callable[[C], C]:
    """Add --out and the options that choose records; the command receives `query` and `out`.

    Args:
        one_method: --method is required and given once; else it may be repeated, and all is the default.
        opened: the command opens a dataset, so --dataset and --backbone are its own.
    """

    def add(command: C) -> C:
        def with_query(*args: Any, **options: Any) -> Any:
            from uss_bench.plots.selection import Query
            from uss_bench.plots.style import figure_format

            figure_format(options["out"])  # a wrong suffix ends here, before any work
            methods = options.pop("methods")
            query = Query(
                folders=options.pop("folders"),
                methods=[methods] if one_method else methods,
                protocol=options.pop("protocol"),
                datasets=() if opened else options.pop("datasets"),
                backbone=None if opened else options.pop("wanted_backbone"),
            )
            return command(*args, query=query, **options)

        with_query.__name__ = command.__name__
        with_query.__doc__ = command.__doc__
        decorated: Any = with_query
        decorated.__click_params__ = getattr(command, "__click_params__", [])
        for option in _selection_options(one_method, opened):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


def _selection_options(one_method: bool, opened: bool) -> Sequence[Callable[[Any], Any]]:
    """Return the options of `selection`, the last in the help first."""
    figure = click.Path(path_type=Path, dir_okay=False)
    method = "A method, or a whole label with parameters."
    if not one_method:
        method += " May be repeated. Default: all."
    chosen = [
        click.option("--backbone", "wanted_backbone", metavar="NAME", help="Records with this backbone."),
        click.option(
            "--dataset", "datasets", multiple=True, metavar="NAME", help="Records on it. May be repeated."
        ),
    ]
    return [
        click.option("--out", required=True, type=figure, metavar="FILE", help="A .pdf, .png or .svg file."),
        records_option,
        click.option("--protocol", metavar="NAME", help="Records under this protocol."),
        *([] if opened else chosen),
        click.option(
            "--method", "methods", multiple=not one_method, required=one_method, metavar="NAME", help=method
        ),
    ]


def raw(command: C) -> C:
    """Add --raw; the command receives `refinement`."""
    return click.option(
        "--raw", "refinement", flag_value="raw", default="crf", help="Scores before the CRF, not after it."
    )(command)


def write(canvas: Figure, out: Path, caption: str) -> None:
    """Save a figure and print its caption."""
    from uss_bench.plots.style import save

    save(canvas, out)
    click.echo(f"figure  {out}\ncaption {caption}")
