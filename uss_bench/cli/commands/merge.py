"""``uss-bench merge``: the results of several machines in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, out_option, warn_skipped
from uss_bench.errors import DataError
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.results.merging import CopyFate, MergePlan

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
@out_option("Folder for the joined results. Default: results.")
@click.option("--dry-run", is_flag=True, help="List what would be copied; copy nothing.")
@common
@click.pass_context
def command(
    ctx: click.Context, registry: Registry, folders: tuple[Path, ...], out: Path, dry_run: bool
) -> None:
    """Copy the records below every DIR, with their arrays, states and pictures, into one results folder.

    Records of the same inputs and the same results count once. If one of them holds other results, all such
    are named and nothing is copied. What cannot be read is named and left out; the exit code is then 1. A
    failed run is dropped where a finished one exists, and nothing else in --out is replaced. An interrupted
    merge leaves whole records only, and can be given again. What belongs to no record stays behind: probes
    of frozen features, and the figures of studies, which 'uss-bench study' draws again.
    """
    from uss_bench.results.files import record_files
    from uss_bench.results.merging import carry_out, plan_merge
    from uss_bench.runtime import progress

    found = sum(len(record_files(folder)) for folder in folders)
    with progress.bar(total=found, label="compared") as bar:
        plan = plan_merge(folders, out, bar.update)
    if not plan.fates and not plan.skipped:
        names = ", ".join(map(str, folders))
        raise DataError(f"There are no records in {names}.", hint="Name results folders, as --out of a run.")
    click.echo(f"{_table(plan, folders)}\n")
    if dry_run:
        for step in plan.steps:
            targets = [target for _, target in step.files]
            for target in [step.target] if step.target in targets else targets:
                click.echo(f"would copy  {target}")
            if step.overtakes:
                click.echo(f"would drop  {step.overtakes}")
        click.echo(f"Nothing was copied: {_count(plan)} would be, into {out}.")
    else:
        for step in progress.track(plan.steps, total=len(plan.steps), label="merged"):
            carry_out(step)
        click.echo(f"Copied {_count(plan)} into {out}.")
    warn_skipped(plan.skipped)
    if plan.skipped:
        ctx.exit(1)


def _table(plan: MergePlan, folders: tuple[Path, ...]) -> str:
    """Return what becomes of the records of every folder."""
    from uss_bench.cli.output.tables import table

    rows = []
    for folder in dict.fromkeys(folders):
        fates = [fate for copy, fate in plan.fates if copy.folder == folder]
        rows.append((str(folder), len(fates), *(fates.count(fate) or "" for fate in _FATES)))
    return table(rows, ["from", "records", *_FATES.values()])


_FATES: dict[CopyFate, str] = {
    "new": "copied",
    "present": "present",
    "repeated": "in several",
    "overtaken": "failed, dropped",
}


def _count(plan: MergePlan) -> str:
    """Count what is copied, in words."""
    records = sum(fate == "new" for _, fate in plan.fates)
    companions = sum(step.files[-1][1] != step.target for step in plan.steps if step.files)
    more = f", and what {companions} others lacked" if companions else ""
    return f"{records} {'record' if records == 1 else 'records'}{more}"
