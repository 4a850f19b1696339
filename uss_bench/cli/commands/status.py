"""``uss-bench status``: how far plans are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, out_option
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.launch.stored import PlanFolder

EPILOG = """\b
Examples:
  uss-bench status
  uss-bench status comparison --out results
  uss-bench status comparison-1a2b3c4d --cancel
"""


@click.command("status", epilog=EPILOG, short_help="Show how far plans of many cells are.")
@click.argument("plan", required=False, metavar="[PLAN]")
@out_option("Results folder of the plans. Default: results.")
@click.option("--all", "everything", is_flag=True, help="Include the cells of finished plans.")
@click.option("--cancel", is_flag=True, help="Cancel the queued and running cells of PLAN.")
@common
def command(registry: Registry, plan: str | None, out: Path, everything: bool, cancel: bool) -> None:
    """Show the cells of all plans that were started with --out, or of those whose name begins with PLAN.

    A cell is done, running, queued, planned (no process works on it: give its command again), or failed,
    with the reason and the log's path. Plans are kept for commands of more than one cell.
    """
    from uss_bench.cli.output import plans as tables
    from uss_bench.launch.status import plan_status
    from uss_bench.launch.stored import stored_plans

    found = stored_plans(out)
    if plan is not None:
        known = {one.path.name.rpartition("-")[0] for one in found}  # without the digest
        found = [one for one in found if one.path.name.startswith(plan)]
        if not found:
            raise UsageError(f"There is no plan '{plan}' in {out}.", hint=did_you_mean(plan, known))
    if cancel:
        _cancel(found, plan)
        return
    if not found:
        click.echo(
            f"No plans in {out}. A command of several cells leaves one: uss-bench run --plan FILE.toml"
        )
        return
    parts = []
    for one in found:
        try:
            status = plan_status(one)
        except DataError as error:
            click.echo(f"{click.style('skipped', fg='yellow')}  {error}", err=True)
            continue
        parts.append(tables.status_text(status, brief=status.finished and not everything and plan is None))
    click.echo("\n\n".join(parts))


def _cancel(found: list[PlanFolder], plan: str | None) -> None:
    from uss_bench.launch.launcher import still_open
    from uss_bench.launch.status import launcher_of

    if plan is None or len(found) != 1:
        raise UsageError(
            "--cancel needs the name of one plan.",
            hint=f"Plans: {', '.join(one.path.name for one in found) or 'none'}.",
        )
    (folder,) = found
    if folder.is_at_work:
        raise UsageError(
            f"A command of this machine runs {folder.path.name}, and would start the tasks again.",
            hint="Press Ctrl-C where it runs.",
        )
    stored = folder.read()
    launcher = launcher_of(folder, stored)
    if launcher is None:
        raise UsageError(
            f"The processes of {folder.path.name} belong to the command that started them.",
            hint="Press Ctrl-C where it runs.",
        )
    alive = still_open(launcher, stored.tasks)
    launcher.cancel(alive)
    click.echo(f"Cancelled {len(alive)} tasks of {folder.path.name}.")
