"""``uss-bench regress``: which numbers moved that should not have."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import DIR, FILE, common
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench regress golden
  uss-bench regress golden --update
  uss-bench regress claims --records results
"""


@click.group("regress", epilog=EPILOG, short_help="Say which numbers moved that should not have.")
def command() -> None:
    """Say which numbers moved that should not have. Exits with 3 when some did."""


@command.command("golden")
@click.option(
    "--golden",
    "folder",
    type=DIR,
    default="leaderboards/golden",
    show_default=True,
    metavar="DIR",
    help="Folder of plan.toml and the golden results.",
)
@click.option("--update", is_flag=True, help="Replace the golden results by what is measured now.")
@common
def golden(registry: Registry, folder: Path, update: bool) -> None:
    """Repeat a few small runs and compare their counts with the golden ones.

    On the machine that made the golden results (same libraries, processor and threads) every count, label
    map and training curve must be the same; elsewhere they may move by the plan's tolerance.
    """
    from uss_bench.cli.output.regress import golden_report, golden_verdict
    from uss_bench.errors import RegressionError
    from uss_bench.regression.comparison import compare_golden
    from uss_bench.regression.golden import INDEX, read_golden, read_plan, run_golden, write_golden
    from uss_bench.results.differences import changes

    plan = read_plan(folder)
    before = None if update and not (folder / INDEX).is_file() else read_golden(folder)
    measured = run_golden(plan, registry)
    if before is None:
        files = write_golden(folder, measured)
        click.echo(f"Wrote {len(files)} files into {folder}. Commit them.")
        return
    machine = changes(before.environment, measured.environment)
    checks = compare_golden(before, measured, plan.tolerance)
    click.echo(golden_report(checks, machine, plan.tolerance))
    moved = [one for one in checks if one.moved]
    if update:
        files = write_golden(folder, measured)
        names = ", ".join(one.name for one in moved)
        why = f"Say in the commit message why these runs moved: {names}." if moved else "No run moved."
        click.echo(f"\nWrote {len(files)} files into {folder}. {why}")
        return
    if moved:
        raise RegressionError(
            golden_verdict(moved),
            hint="If it was meant to, run with --update and say why in the commit message.",
        )


@command.command("claims")
@click.option(
    "--records",
    "folders",
    type=DIR,
    multiple=True,
    metavar="DIR",
    help="Folder of records. May be repeated. Default: leaderboards/records.",
)
@click.option(
    "--known",
    "ledger",
    type=FILE,
    metavar="FILE",
    help="File of known deviations. Default: leaderboards/known.toml, if it exists.",
)
@common
def claims(registry: Registry, folders: tuple[Path, ...], ledger: Path | None) -> None:
    """Hold records against what papers claim, by a statistical rule.

    Only what was measured under a claim's own protocol (splits, backbone, weights, parameters) can be lower
    or higher than claimed; all others stand in a table of their own, with what differs.
    """
    from uss_bench.claims import check_claims
    from uss_bench.cli.output.regress import claims_report, claims_verdict
    from uss_bench.errors import DataError, RegressionError
    from uss_bench.regression.claims import judge, outdated, read_known
    from uss_bench.results.collection import gather, read_entries

    usual = Path("leaderboards/known.toml")
    ledger = ledger or (usual if usual.is_file() else None)
    known = read_known(ledger) if ledger is not None else []
    entries, broken = read_entries(folders or [Path("leaderboards/records")])
    if broken:
        raise DataError(broken[0], hint="Take the record from git again, or run it again.")
    if not entries:
        places = ", ".join(map(str, folders)) or "leaderboards/records"
        raise DataError(f"There are no records in {places}.", hint="Give their folder: --records DIR.")
    judged = judge(check_claims(gather(entries)), known)
    click.echo(claims_report(judged, outdated(judged, known)))
    news = [one for one in judged if one.is_news]
    if news:
        raise RegressionError(
            claims_verdict(news),
            hint=f"Find out why, and if it stays, write the reason into {ledger}.",
        )
