"""``uss-bench claims``: what papers claim, from the ledger."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import DIR, common
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.claims import Claim

USUAL_PROTOCOL = "stego320@2"


@click.command("claims", short_help="Show what papers claim, and how it was measured.")
@click.option("--paper", metavar="KEY", help="Only claims printed in this paper: ds2dl, smooseg, …")
@click.option(
    "--dataset", metavar="NAME", help="Only claims on this dataset, or 'average' for means over datasets."
)
@click.option("--method", metavar="NAME", help="Only claims about this method.")
@click.option(
    "--folder",
    type=DIR,
    metavar="DIR",
    help="Folder of published claims. Default: the claims in uss-bench.",
)
@common
def command(
    registry: Registry, paper: str | None, dataset: str | None, method: str | None, folder: Path | None
) -> None:
    """Show what papers claim: their own methods and each other's, with how each number was measured.

    A number that several papers print of one experiment is one row. Numbers of one dataset may be
    compared only where CRF, checkpoint, split and protocol agree; what is unusual stands in the notes.
    """
    from uss_bench.claims import load_ledger
    from uss_bench.cli.output.claims import claims_table

    ledger = load_ledger(folder)
    claims = ledger.claims
    for field, wanted in (("paper", paper), ("dataset", dataset), ("method", method)):
        claims = _only(claims, field, wanted)
    specs = {plugin.name: registry.dataset(plugin.name)[0] for plugin in registry.all("datasets")}
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    if paper is not None:
        about = ledger.papers[paper]
        where = " · ".join(filter(None, (about.authors, f"{about.venue} {about.year}", about.url)))
        click.echo(f"{click.style(about.title, bold=True)}\n{where}\n")
    usual = {name: (spec.test_split, USUAL_PROTOCOL) for name, spec in specs.items()}
    titles = {name: f"{spec.called()} ({name})" for name, spec in specs.items()}
    click.echo(claims_table(claims, usual, titles, width))


def _only(claims: Sequence[Claim], field: str, wanted: str | None) -> list[Claim]:
    from uss_bench.errors import UsageError, did_you_mean

    if wanted is None:
        return list(claims)
    found = [claim for claim in claims if getattr(claim, field) == wanted]
    if not found:
        known = {getattr(claim, field) for claim in claims}
        raise UsageError(f"No claim has the {field} '{wanted}'.", hint=did_you_mean(wanted, known))
    return found
