"""``uss-bench study``: an ablation or a sensitivity study, by name or from a plan file."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import common
from uss_bench.cli.run_options import Experiment, experiment_options
from uss_bench.cli.study_cells import entries_of, run_study
from uss_bench.experiment.studies import find_study
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench study ds2dl-table2 --dataset toy3
  uss-bench study smooseg-fig6 --dataset toy27 --set steps=500 --seeds 1 --dry-run
  uss-bench study mine.toml --dataset folder --root camvid --classes camvid \\
                  --backbone vit_small_patch14_dinov2 --weights vit.safetensors
"""


@click.command("study", epilog=EPILOG, short_help="Run an ablation or a sensitivity study by name.")
@click.argument("study", metavar="NAME|FILE.toml")
@experiment_options(seeds=3)
@common
def command(registry: Registry, study: str, asked: Experiment) -> None:
    """Run every setting of a study: one by name (uss-bench ls studies), or a plan file of your own.

    Features are extracted once. All settings run with the first seed, then all with the next. What has
    a record is not run again, and a cell that fails does not stop the others.
    """
    found = find_study(study, registry)
    ran = run_study(registry, found, asked)
    if ran is None:
        return
    cells, results = ran

    from uss_bench.cli.output import study as study_report
    from uss_bench.launch.planning import raise_failures

    click.echo(study_report.study_table(found.plan, cells, results))
    out, cell = Path(asked.execution.out), cells[0].found.cell
    figure = study_report.save_figure(found.plan, cell, entries_of(found, cells, results), out)
    click.echo(f"records {out / cell.dataset.name}")
    if figure is not None:
        click.echo(f"figure  {figure}")
    raise_failures(cells, results)
