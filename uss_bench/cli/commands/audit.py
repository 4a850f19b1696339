"""``uss-bench audit``: what differs between protocols and papers, what it costs, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uss_bench.cli.options import common, records_option, warn_skipped
from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.audit.differences import SideBySide
    from uss_bench.results.collection import Configuration

C = TypeVar("C", bound=Callable[..., Any])

EPILOG = """\b
Examples:
  uss-bench audit papers
  uss-bench audit papers stego eagle
  uss-bench audit papers picie stego320@2
  uss-bench audit protocols stego320@2 'stego320@2[flip=false]'
  uss-bench audit effects --records leaderboards/records
  uss-bench audit orderings --records leaderboards/records
  uss-bench audit habits --records leaderboards/records
  uss-bench audit backbones --records leaderboards/records
  uss-bench audit criteria --records results
  uss-bench audit pair 5d1735f1 207335fb --records leaderboards/records
  uss-bench audit records --records leaderboards/records
"""


@click.group("audit", epilog=EPILOG)
def command() -> None:
    """Show what differs between protocols or papers, what it costs, and what is wrong in records.

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
def protocols(registry: Registry, first: str, second: str, folders: tuple[Path, ...], form: str) -> None:
    """Compare two protocols field by field, with the measured effect of each difference."""
    from uss_bench.audit.differences import between_protocols
    from uss_bench.protocol import get_protocol

    _show(between_protocols(get_protocol(first), get_protocol(second)), registry, folders, form)


@command.command("papers", short_help="Compare two papers, and what each difference costs.")
@click.argument("first", required=False)
@click.argument("second", required=False)
@records_option
@_form("table", "md")
@common
def papers(
    registry: Registry, first: str | None, second: str | None, folders: tuple[Path, ...], form: str
) -> None:
    """Compare what two papers did when they evaluated, with the measured effect of each difference.

    Where no record shows an effect, what a paper printed of such a difference stands in its place.
    Without names, list the papers. Either may be one of our protocols: stego320@2.
    """
    from uss_bench.audit.differences import between_papers, with_printed
    from uss_bench.audit.papers import find_paper, load_papers
    from uss_bench.cli.output.audit import papers_text

    ledger = load_papers()
    if first is None:
        click.echo(papers_text(ledger))
        return
    if second is None:
        raise UsageError("Two papers are compared.", hint=f"uss-bench audit papers {first} stego320@2")
    sides = between_papers(find_paper(first, ledger), find_paper(second, ledger))
    _show(with_printed(sides, ledger.values()), registry, folders, form)


@command.command("effects", short_help="Show what each rule of evaluation costs, over all records.")
@records_option
@_form("table", "md", "csv")
@common
def effects(registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    """Show what each rule of evaluation does to the scores, over all records.

    Mean and range are over configurations (seeds averaged), without the floors, which look at no feature;
    csv has one row per rule and configuration, floors included.
    """
    from uss_bench.audit.effects import all_effects
    from uss_bench.cli.output.audit import effects_csv, effects_text

    configurations = _configurations(folders)
    if not configurations:
        raise _no_records(folders)
    measured = all_effects(configurations, registry.floors())
    if form == "csv":
        click.echo(effects_csv(measured), nl=False)
    else:
        click.echo(
            effects_text(measured, _learned(configurations, registry), folders[0], markdown=form == "md")
        )


@command.command("criteria", short_help="Show how well criteria without labels choose settings.")
@records_option
@_form("table", "md")
@common
def criteria(registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    """Show how well criteria that need no label choose among the settings of a method, over all records.

    A group is three or more settings of one method on one table with one backbone and as many seeds.
    Columns: how often the best setting by labels was chosen; the mIoU of the chosen setting over that of a
    blind choice and below that of the best; Spearman's rank correlation. Each is a mean over the groups,
    with the least and the greatest.
    """
    from uss_bench.cli.output.tuning import criteria_text
    from uss_bench.statistics.criteria import judge

    choices = judge(_learned(_configurations(folders), registry))
    if not choices:
        raise UsageError(
            "No method has three settings or more in these records, with the criteria that newer runs keep.",
            hint="Run some: uss-bench tune METHOD --dataset NAME --try KEY=V1,V2,V3.",
        )
    click.echo(criteria_text(choices, markdown=form == "md"))


@command.command("orderings", short_help="Test on records what papers print as orderings.")
@records_option
@_form("table", "md")
@common
def orderings(registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    """Test on records what papers print as orderings: of methods, of ablations, of rows with a CRF.

    The orderings are read off the ledger of claims (uss-bench claims). Each is tested where the records
    hold both sides on the same images with the same backbone, by the paired test of uss-bench compare.
    """
    from uss_bench.audit.orderings import printed_orderings, tested_orderings
    from uss_bench.claims import load_claims
    from uss_bench.cli.output.orderings import orderings_text
    from uss_bench.results.stated import StatedSettings

    configurations = _configurations(folders)
    if not configurations:
        raise _no_records(folders)
    found = printed_orderings(load_claims())
    tested = tested_orderings(found, configurations, StatedSettings(registry))
    click.echo(orderings_text(found, tested, registry.titles(), markdown=form == "md"))


@command.command("habits", short_help="Price the habits of the field, each with its interval.")
@records_option
@_form("table", "md")
@common
def habits(registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    """Price the habits of the field: what each gives to every configuration that shows it.

    Labels that choose the checkpoint and clusters that are left out are priced on the counts of any record,
    the others on pairs of records that differ in nothing else. The difference is paired by images and by
    seeds, with its 95 % interval. Methods that look at no feature are left out.
    """
    from uss_bench.audit.habits import HABITS, prices
    from uss_bench.cli.output.habits import habits_text
    from uss_bench.results.stated import StatedSettings

    configurations = _configurations(folders)
    if not configurations:
        raise _no_records(folders)
    stated = StatedSettings(registry)
    priced = {one: prices(one, configurations, stated, registry.floors()) for one in HABITS}
    click.echo(habits_text(priced, registry.titles(), markdown=form == "md"))


@command.command("backbones", short_help="Show how much of a score is the method, and how much the backbone.")
@records_option
@_form("table", "md")
@common
def backbones(registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    """Show how much of a score is the method, and how much the backbone.

    For each table on which two or more methods, each at one setting, met the same two or more backbones:
    their scores, and the shares of the variance that go with the method, with the backbone, with both
    together (what a method gains on one backbone alone) and with the seed.
    """
    from uss_bench.audit.backbones import two_way
    from uss_bench.cli.output.backbones import backbones_text

    found = two_way(_learned(_configurations(folders), registry))
    if not found:
        raise UsageError(
            "In these records no two methods have the same two backbones, each at one setting.",
            hint="Run some: uss-bench run --method A --method B --backbone X --backbone Y --dataset NAME.",
        )
    click.echo(backbones_text(found, markdown=form == "md"))


@command.command("pair", short_help="Show why the numbers of two records differ.")
@click.argument("a")
@click.argument("b")
@records_option
@common
def pair(registry: Registry, a: str, b: str, folders: tuple[Path, ...]) -> None:
    """Show all in which records A and B differ, and their scores.

    A and B are paths, or the starts of ids. "Another input" makes two experiments of them; code of the
    method, versions and machine may move numbers of the same experiment. Whether the scores differ by more
    than chance is for `uss-bench compare A B`.
    """
    from uss_bench.cli.output.rerun import pair_text
    from uss_bench.results.differences import differences
    from uss_bench.results.files import find_record, read_record

    first, second = (read_record(find_record(text, list(folders))) for text in (a, b))
    click.echo(pair_text(first, second, differences(first, second.cell, second.environment)))


@command.command("records", short_help="Check records and claims for consistency.")
@records_option
@click.option(
    "--known-stale",
    multiple=True,
    metavar="METHOD",
    help="Do not fail on stale records of this method. May be repeated; stale.toml lists single records.",
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
    from uss_bench.audit.claim_checks import audit_claims
    from uss_bench.audit.findings import any_wrong
    from uss_bench.audit.table_checks import audit_records
    from uss_bench.claims import built_in_folder, load_claims
    from uss_bench.claims.ledger import AVERAGE
    from uss_bench.cli.output.audit import findings_text
    from uss_bench.results.code import CurrentCode
    from uss_bench.runtime.formatting import plural

    number, findings = audit_records(folders, CurrentCode(registry).of, known_stale)
    if not number:
        raise _no_records(folders)
    claims = load_claims()
    findings += audit_claims(claims, built_in_folder(), {*registry.names("datasets"), AVERAGE})
    click.echo(findings_text(findings, f"{plural(number, 'record')} and {len(claims)} claims"))
    if any_wrong(findings):
        ctx.exit(1)


def _no_records(folders: tuple[Path, ...]) -> UsageError:
    places = ", ".join(map(str, folders))
    return UsageError(f"There are no records in {places}.", hint="Give their folder: --records DIR.")


def _configurations(folders: tuple[Path, ...]) -> list[Configuration]:
    from uss_bench.results.collection import gather, read_entries, with_counts

    entries, broken = read_entries(folders)
    configurations = with_counts(gather(entries), broken)
    warn_skipped(broken)
    return configurations


def _learned(configurations: list[Configuration], registry: Registry) -> list[Configuration]:
    from uss_bench.results.collection import is_floor

    return [one for one in configurations if not is_floor(one, registry.floors())]


def _show(sides: SideBySide, registry: Registry, folders: tuple[Path, ...], form: str) -> None:
    from uss_bench.audit.effects import measure
    from uss_bench.cli.output.audit import comparison_text

    found = _configurations(folders)
    effects = {change: measure(change, found, registry.floors()) for change in sides.changes}
    click.echo(comparison_text(sides, effects, _learned(found, registry), folders[0], markdown=form == "md"))
