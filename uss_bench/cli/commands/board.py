"""``uss-bench board``: the tables that records and claims give, built into files or shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uss_bench.cli.options import (
    DIR,
    common,
    label_option,
    parse_labels,
    records_option,
    warn_skipped,
)
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.board.model import Board

EPILOG = """\b
Examples:
  uss-bench board show --dataset camvid
  uss-bench board show --dataset camvid --format latex > table.tex
  uss-bench board build --out my-boards
  uss-bench board build --records leaderboards/records --check
"""


@click.group("board", epilog=EPILOG, short_help="Build the boards from records and claims, or show them.")
def command() -> None:
    """Build tables of what was measured: records beside published claims, ranks with ties, intervals.

    Results share a table only if they share data, protocol hash and backbone. Floors stand in every table.
    """


_claims = click.option(
    "--claims",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder of published claims. Default: the claims in uss-bench.",
)


@command.command("build", short_help="Write all boards: HTML, Markdown, LaTeX and CSV.")
@records_option
@_claims
@label_option
@click.option(
    "--out",
    type=DIR,
    default="boards",
    show_default=True,
    metavar="DIR",
    help="Folder for the boards.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with code 3 if the files are out of date.")
@common
def build(
    registry: Registry,
    folders: tuple[Path, ...],
    claims: Path | None,
    labels: tuple[str, ...],
    out: Path,
    check: bool,
) -> None:
    """Write board.html, README.md, settings.csv, records.csv and latex/*.tex; and backbones.html of features.

    The same records and claims give the same bytes, so the files can be committed and checked. Files that
    uss-bench did not write, or that were changed since, are neither replaced nor deleted.
    """
    from uss_bench.board import files
    from uss_bench.board.unchanged import Visit
    from uss_bench.errors import RegressionError
    from uss_bench.results.feature_record import read_feature_records

    def make() -> tuple[dict[str, bytes], int, list[str]]:
        boards, skipped = _boards(folders, claims, registry, labels)
        features, broken = read_feature_records(folders)
        backbones = ""
        if features:
            from uss_bench.board import backbone_page

            backbones = backbone_page.render(features, out, registry)
        contents = files.contents(_with_pictures(boards, registry), out, backbones)
        return contents, len(boards), [*skipped, *broken]

    visit = Visit(registry, folders, claims, labels, out, make)
    built = visit.built
    warn_skipped(built.skipped)
    visit.save()
    if not check:
        visit.write()
        more = len(built.digests) - 1
        click.echo(f"{built.tables} tables in {out / 'board.html'}, and {more} more files beside it")
        return
    if outdated := visit.outdated:
        raise RegressionError(
            f"Not what the records and claims give: {', '.join(str(out / name) for name in outdated)}.",
            hint="If a record, a claim or a method's code changed on purpose: the same without --check.",
        )
    click.echo(f"{len(built.digests)} files in {out} are what the records give")


@command.command("show", short_help="Print boards: for the terminal, Markdown, LaTeX or CSV.")
@records_option
@_claims
@label_option
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME",
    help="Only tables of this dataset. May be repeated.",
)
@click.option("--backbone", metavar="NAME", help="Only tables of this backbone.")
@click.option("--protocol", metavar="NAME", help="Only tables of this protocol, by name or hash.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "md", "latex", "csv"]),
    default="text",
    show_default=True,
    help="Output format.",
)
@common
def show(
    registry: Registry,
    folders: tuple[Path, ...],
    claims: Path | None,
    labels: tuple[str, ...],
    datasets: tuple[str, ...],
    backbone: str | None,
    protocol: str | None,
    kind: str,
) -> None:
    """Print tables: best row first, floors last.

    LaTeX of several datasets ends with one table over all of them, in the layout of papers.
    """
    from uss_bench.board import latex, markdown, sheets, terminal

    boards, skipped = _boards(
        folders, claims, registry, labels, datasets=datasets, protocol=protocol, backbone=backbone
    )
    warn_skipped(skipped)
    if kind == "latex":
        tables = [*(latex.render(board) for board in boards), latex.render_overview(boards)]
        click.echo("\n".join(filter(None, tables)), nl=False)
        return
    render: Any = {"text": terminal.render, "md": markdown.render, "csv": sheets.configurations}[kind]
    click.echo(render(boards), nl=kind == "text")


def _with_pictures(boards: Sequence[Board], registry: Registry) -> list[Board]:
    generated = registry.generated()
    if not any(board.key.dataset in generated for board in boards):
        return list(boards)  # without torch, which datasets need
    from uss_bench.board.pictures import with_pictures

    return [with_pictures(board, registry) for board in boards]


def _boards(
    folders: Sequence[Path],
    claims: Path | None,
    registry: Registry,
    labels: Sequence[str],
    *,
    datasets: Sequence[str] = (),
    protocol: str | None = None,
    backbone: str | None = None,
) -> tuple[list[Board], list[str]]:
    """Return the boards of the configurations asked for, with the floors of their tables.

    Beside them stands a sentence about each record that was left out.

    Raises:
        UsageError: when there are none; the records that were left out are named before.
    """
    from uss_bench.board.compute import boards
    from uss_bench.claims import load_claims
    from uss_bench.errors import UsageError
    from uss_bench.results.code import CurrentCode
    from uss_bench.results.collection import choose, counted, gather, is_floor, read_entries
    from uss_bench.results.stated import StatedSettings

    entries, broken = read_entries(folders)
    try:
        found = gather(entries)
        if found:
            wanted = dict.fromkeys(datasets) or [None]
            found = [one for name in wanted for one in choose(found, dataset=name, protocol=protocol)]
        if found and backbone is not None:
            chosen = choose(found, backbone=backbone)
            tables = {one.table for one in chosen}
            floors = [one for one in found if is_floor(one, registry.floors()) and one.table in tables]
            found = sorted(
                [*chosen, *(one for one in floors if one not in chosen)], key=lambda one: one.table
            )
        built = boards(
            counted(found, broken),
            load_claims(claims),
            is_stale=CurrentCode(registry).is_stale,
            floors=registry.floors(),
            titles=registry.titles() | parse_labels(labels),
            ingredients=registry.ingredients,
            stated=StatedSettings(registry),
        )
        if not built:
            raise UsageError(
                f"There are no records with scores in {', '.join(map(str, folders))}.",
                hint="Say where they are: --records DIR, such as the results folder of uss-bench run.",
            )
    except Exception:
        warn_skipped(broken)
        raise
    return built, broken
