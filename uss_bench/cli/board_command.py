"""``uss-bench board``: the tables that records and claims give, built into files or shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uss_bench.cli.options import common, records_option
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.board.model import Board
    from uss_bench.collection import Setting

EPILOG = """\b
Examples:
  uss-bench board show --dataset camvid
  uss-bench board show --dataset camvid --format latex > table.tex
  uss-bench board build --out my-boards
  uss-bench board build --records leaderboards/records --check
"""


@click.group("board", epilog=EPILOG, short_help="Build the boards from records and claims, or show them.")
def command() -> None:
    """Tables of what was measured: records beside published claims, ranks with ties, intervals.

    Results share a table only if they share data, protocol hash and backbone. Floors stand in each.
    """


_claims = click.option(
    "--claims",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder of published claims. Default: those that come with uss-bench.",
)


@command.command("build", short_help="Write all boards: HTML, Markdown, LaTeX and CSV.")
@records_option
@_claims
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="boards",
    show_default=True,
    metavar="DIR",
    help="Where the boards go.",
)
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with 3 if the files are not what they should be."
)
@common
def build(registry: Registry, folders: tuple[Path, ...], claims: Path | None, out: Path, check: bool) -> None:
    """Write board.html, README.md, settings.csv, records.csv and latex/*.tex.

    The same records and claims give the same bytes, so the files can be committed and checked.
    """
    from uss_bench.board import files
    from uss_bench.board.pictures import with_pictures
    from uss_bench.errors import RegressionError

    boards = _boards(_settings(folders), claims, registry)
    contents = files.contents([with_pictures(board, registry) for board in boards], out)
    if not check:
        files.write(contents, out)
        click.echo(
            f"{len(boards)} tables in {out / 'board.html'}, and {len(contents) - 1} more files beside it"
        )
        return
    outdated = files.outdated(contents, out)
    if outdated:
        raise RegressionError(
            f"Not what the records and claims give: {', '.join(str(out / name) for name in outdated)}.",
            hint="If a record, a claim or a method's code changed on purpose: the same without --check.",
        )
    click.echo(f"{len(contents)} files in {out} are what the records give")


@command.command("show", short_help="Print boards: for the terminal, Markdown, LaTeX or CSV.")
@records_option
@_claims
@click.option("--dataset", metavar="NAME", help="Only tables of this dataset.")
@click.option("--backbone", metavar="NAME", help="Only tables of this backbone.")
@click.option("--protocol", metavar="NAME", help="Only tables of this protocol, by name or hash.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "md", "latex", "csv"]),
    default="text",
    show_default=True,
    help="How to print.",
)
@common
def show(
    registry: Registry,
    folders: tuple[Path, ...],
    claims: Path | None,
    dataset: str | None,
    backbone: str | None,
    protocol: str | None,
    kind: str,
) -> None:
    """Print tables: best row first, floors last."""
    from uss_bench.board import latex, markdown, sheets, terminal
    from uss_bench.board.compute import is_floor
    from uss_bench.collection import choose

    settings = choose(_settings(folders), dataset=dataset, protocol=protocol)
    if backbone is not None:
        chosen = choose(settings, backbone=backbone)
        tables = {one.table for one in chosen}
        floors = [one for one in settings if is_floor(one) and one.table in tables]
        settings = [*chosen, *(one for one in floors if one not in chosen)]
    boards = _boards(settings, claims, registry)
    if kind == "latex":
        click.echo("\n".join(latex.render(board) for board in boards), nl=False)
        return
    render: Any = {"text": terminal.render, "md": markdown.render, "csv": sheets.settings}[kind]
    click.echo(render(boards), nl=kind == "text")


def _settings(folders: Sequence[Path]) -> list[Setting]:
    """Return the settings of the records in the folders; say on standard error what cannot be read."""
    from uss_bench.collection import gather, read_entries
    from uss_bench.errors import UsageError

    entries, broken = read_entries(folders)
    for message in broken:
        click.echo(f"{click.style('skipped', fg='yellow')}  {message}", err=True)
    settings = gather(entries)
    if not settings:
        raise UsageError(
            f"There are no records with scores in {', '.join(map(str, folders))}.",
            hint="Say where they are: --records DIR, such as the results folder of uss-bench run.",
        )
    return settings


def _boards(settings: Sequence[Setting], claims: Path | None, registry: Registry) -> list[Board]:
    from uss_bench.board.compute import boards
    from uss_bench.claims import load_claims
    from uss_bench.provenance import current_codes

    codes = current_codes((setting.cell.method for setting in settings), registry)
    return boards(settings, load_claims(claims), codes)
