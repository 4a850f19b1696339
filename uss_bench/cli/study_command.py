"""``uss-bench study``: an ablation or a sensitivity study, by name or from a plan file."""

from __future__ import annotations

import click

from uss_bench.cli.experiment import Experiment, Job, execute, experiment_options
from uss_bench.cli.options import common
from uss_bench.errors import RunError, UssBenchError
from uss_bench.registry import Registry
from uss_bench.studies import find_study

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
    # Wrong names end here, before torch is imported.
    registry.dataset(asked.request["dataset"])
    found.check(registry)

    from uss_bench import progress, study_report, summary
    from uss_bench.record_files import record_path
    from uss_bench.runner import Outcome
    from uss_bench.setup import Request, resolve

    plan = found.plan
    params = {row.label: found.params(row, asked.request["params"]) for row in plan.settings}
    first = next(iter(params.values()))
    base = resolve(Request(method=plan.method, **{**asked.request, "params": first}), registry)
    setups = {label: base.with_params(chosen) for label, chosen in params.items()}
    jobs = [Job(f"{label}, seed {seed}", setups[label], seed) for seed in asked.seeds for label in setups]
    if asked.dry_run:
        cells = [(job.label, job.setup.cell(job.seed)) for job in jobs]
        done = {cell.id for _, cell in cells if record_path(asked.out, cell).exists() and not asked.force}
        click.echo(study_report.plan_table(cells, done))
        return

    progress.say(f"{plan.name}: {len(jobs)} cells, which vary {', '.join(sorted(plan.varied))}. The first:")
    summary.print_header(base)
    results = execute(jobs, asked)
    records = {
        label: [
            result.record
            for job, result in zip(jobs, results, strict=True)
            if job.setup is setup and isinstance(result, Outcome)
        ]
        for label, setup in setups.items()
    }
    click.echo(study_report.study_table(plan, base, records, len(asked.seeds)))
    outcomes = [result for result in results if isinstance(result, Outcome)]
    figure = study_report.save_figure(plan, base, outcomes, asked.out)
    click.echo(f"records {asked.out / base.dataset.name}")
    if figure is not None:
        click.echo(f"figure  {figure}")
    failed = [
        (job.label, result)
        for job, result in zip(jobs, results, strict=True)
        if isinstance(result, Exception)
    ]
    if failed:
        lines = [
            f"  {label}: {error.what if isinstance(error, UssBenchError) else repr(error)}"
            for label, error in failed
        ]
        raise RunError(
            "\n".join([f"{len(failed)} of {len(jobs)} cells failed:", *lines]),
            hint="The same command runs the failed cells again, and no other.",
        ) from failed[0][1]
