"""``uss-bench merge``: the results of several machines in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, out_option
from uss_bench.errors import DataError
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.merging import Fate, Plan

EPILOG = """\b
Examples:
  uss-bench merge node1/results node2/results --out results
  uss-bench merge /mnt/lab/*/results --out results --dry-run
"""


@click.command("merge", epilog=EPILOG, short_help="Join the results of several machines in one folder.")
@click.argument(
    "folders",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@out_option("Where the joined results go. Default: results.")
@click.option("--dry-run", is_flag=True, help="Compare everything, say what would be copied, copy nothing.")
@common
def command(registry: Registry, folders: tuple[Path, ...], out: Path, dry_run: bool) -> None:
    """Copy the records below every DIR, with their arrays, states and pictures, into one results folder.

    Records of the same inputs and the same results count once. If one of them holds other results, or is
    damaged, all such are named and nothing is copied. A failed run is dropped where a finished one exists.
    An interrupted merge leaves whole records only, and can be given again. What belongs to no record stays
    behind: probes of frozen features, and the figures of studies, which 'uss-bench study' draws again.
    """
    from uss_bench import progress
    from uss_bench.merging import carry_out, plan_merge
    from uss_bench.record_files import record_files

    found = sum(len(record_files(folder)) for folder in folders)
    if not found:
        names = ", ".join(map(str, folders))
        raise DataError(f"There are no records in {names}.", hint="Name results folders, as --out of a run.")
    with progress.bar(total=found, label="compared") as bar:
        plan = plan_merge(folders, out, bar.update)
    click.echo(f"{_table(plan, folders)}\n")
    if dry_run:
        for step in plan.steps:
            targets = [target for _, target in step.files]
            for target in [step.target] if step.target in targets else targets:
                click.echo(f"would copy  {target}")
            if step.overtakes:
                click.echo(f"would drop  {step.overtakes}")
        click.echo(f"Nothing was copied: {_count(plan)} would be, into {out}.")
        return
    for step in progress.track(plan.steps, total=len(plan.steps), label="merged"):
        carry_out(step)
    click.echo(f"Copied {_count(plan)} into {out}.")


def _table(plan: Plan, folders: tuple[Path, ...]) -> str:
    """Return what becomes of the records of every folder."""
    from tabulate import tabulate

    rows = []
    for folder in dict.fromkeys(folders):
        fates = [fate for copy, fate in plan.fates if copy.folder == folder]
        rows.append((str(folder), len(fates), *(fates.count(fate) or "" for fate in _FATES)))
    return tabulate(rows, headers=["from", "records", *_FATES.values()], disable_numparse=True)


_FATES: dict[Fate, str] = {
    "new": "copied",
    "present": "there already",
    "repeated": "in another too",
    "overtaken": "failed, dropped",
}


def _count(plan: Plan) -> str:
    """Count what is copied, in words."""
    records = sum(fate == "new" for _, fate in plan.fates)
    companions = sum(step.files[-1][1] != step.target for step in plan.steps if step.files)
    more = f", and what {companions} others lacked" if companions else ""
    return f"{records} {'record' if records == 1 else 'records'}{more}"
