"""``uss-bench audit``: what differs between protocols and papers, what it costs, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from uss_bench.cli.options import common, records_option
from uss_bench.errors import UsageError
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.audit.differences import Comparison
    from uss_bench.collection import Setting

C = TypeVar("C", bound=Callable[..., Any])

EPILOG = """\b
Examples:
  uss-bench audit papers
  uss-bench audit papers stego eagle
  uss-bench audit papers picie stego320@1
  uss-bench audit protocols stego320@1 'stego320@1[flip=false]'
  uss-bench audit effects --records leaderboards/records
  uss-bench audit records --records leaderboards/records
"""


@click.group("audit", epilog=EPILOG)
def command() -> None:
    """Say what differs between protocols or papers, what it costs, and what is wrong in records.

    Costs are measured on records: scores of stored counts under both rules, or pairs of records that
    differ in nothing but the rule.
    """


def _form(*choices: str) -> Callable[[C], C]:
    return click.option("--format", "form", type=click.Choice(choices), default="table", show_default=True)


@command.command("protocols", short_help="Compare two protocols, and what each difference costs.")
@click.argument("first")
@click.argument("second")
@records_option
@_form("table", "md")
@common
def protocols(
    registry: Registry, first: str, second: str, folders: tuple[Path, ...], form: Literal["table", "md"]
) -> None:
    """Compare two protocols field by field, with the measured effect of each difference."""
    from uss_bench.audit.differences import between_protocols
    from uss_bench.protocol import get_protocol

    comparison = between_protocols(get_protocol(first), get_protocol(second))
    _show(comparison, folders, form)


@command.command("papers", short_help="Compare two papers, and what each difference costs.")
@click.argument("first", required=False)
@click.argument("second", required=False)
@records_option
@_form("table", "md")
@common
def papers(
    registry: Registry,
    first: str | None,
    second: str | None,
    folders: tuple[Path, ...],
    form: Literal["table", "md"],
) -> None:
    """Compare what two papers did when they evaluated, with the measured effect of each difference.

    Without names, list the papers. A protocol of ours will do for either: stego320@1.
    """
    from uss_bench.audit.differences import between_papers
    from uss_bench.audit.papers import find_paper, load_papers
    from uss_bench.audit.tables import papers_text

    ledger = load_papers()
    if first is None:
        click.echo(papers_text(ledger))
        return
    if second is None:
        raise UsageError("Two papers are compared.", hint=f"uss-bench audit papers {first} stego320@1")
    _show(between_papers(find_paper(first, ledger), find_paper(second, ledger)), folders, form)


@command.command("effects", short_help="Show what each rule of evaluation costs, over all records.")
@records_option
@_form("table", "md", "csv")
@common
def effects(registry: Registry, folders: tuple[Path, ...], form: Literal["table", "md", "csv"]) -> None:
    """Show what each rule of evaluation does to the scores, over all records.

    Mean and range are over settings (seeds averaged), without the floors `constant` and `random`; csv has
    one row per rule and setting, floors included.
    """
    from uss_bench.audit.effects import all_effects
    from uss_bench.audit.tables import effects_csv, effects_text

    settings = _settings(folders)
    if not settings:
        raise UsageError(_NO_RECORDS.format(_listed(folders)), hint="Give their folder: --records DIR.")
    measured = all_effects(settings)
    if form == "csv":
        click.echo(effects_csv(measured), nl=False)
    else:
        click.echo(effects_text(measured, settings, folders[0], markdown=form == "md"))


@command.command("records", short_help="Check records and claims for consistency.")
@records_option
@click.option(
    "--known-stale",
    multiple=True,
    metavar="METHOD",
    help="Only note that this method's records are of older code: it is known. May be repeated.",
)
@common
@click.pass_context
def records(
    ctx: click.Context, registry: Registry, folders: tuple[Path, ...], known_stale: tuple[str, ...]
) -> None:
    """Check every record, and the published claims, for consistency; exit with 1 if something is wrong.

    A record: its id, digests, schema, place, protocol, scores against its counts, candidates, code and
    environment. Records of one table: the same images, classes and pixels per image and class. Claims:
    percentages, names that exist, and no contradiction.
    """
    from uss_bench.audit.claim_checks import check_claims
    from uss_bench.audit.findings import any_wrong
    from uss_bench.audit.table_checks import audit_records
    from uss_bench.audit.tables import findings_text
    from uss_bench.claims import built_in_folder, load_claims
    from uss_bench.claims.ledger import AVERAGE
    from uss_bench.provenance import code_hash

    code = {plugin.name: code_hash(plugin.folder) for plugin in registry.all("methods")}
    number, findings = audit_records(folders, code, known_stale)
    if not number:
        raise UsageError(_NO_RECORDS.format(_listed(folders)), hint="Give their folder: --records DIR.")
    claims = load_claims()
    findings += check_claims(claims, built_in_folder(), {*registry.names("datasets"), AVERAGE})
    records_text = f"{number} record{'s' * (number != 1)}"
    click.echo(findings_text(findings, f"{records_text} and {len(claims)} claims"))
    if any_wrong(findings):
        ctx.exit(1)


_NO_RECORDS = "There are no records in {}."


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(str(folder) for folder in folders)


def _settings(folders: tuple[Path, ...]) -> list[Setting]:
    from uss_bench.collection import gather, read_entries

    entries, _ = read_entries(folders)
    return gather(entries)


def _show(comparison: Comparison, folders: tuple[Path, ...], form: Literal["table", "md"]) -> None:
    from uss_bench.audit.tables import comparison_text

    click.echo(comparison_text(comparison, _settings(folders), folders[0], markdown=form == "md"))
