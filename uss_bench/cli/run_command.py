"""``uss-bench run``: the main job."""

from __future__ import annotations

import click

from uss_bench.cli.experiment import Experiment, Job, execute, experiment_options
from uss_bench.cli.options import common
from uss_bench.registry import Registry

EPILOG = """\b
Examples:
  uss-bench run --method smooseg --dataset toy3 --seeds 3
  uss-bench run --method dino --dataset folder --root camvid --classes camvid \\
                --backbone vit_small_patch14_dinov2 --weights vit.safetensors
  uss-bench run --method smooseg --dataset toy3 --set steps=1000 --set tau=0.05
  uss-bench run --method dino --dataset toy3 --protocol 'stego320@1[flip=false]'
"""


@click.command("run", epilog=EPILOG, short_help="Train, predict, refine, match, score and record.")
@click.option("--method", required=True, metavar="NAME", help="uss-bench ls methods")
@experiment_options(seeds=1)
@common
def command(registry: Registry, method: str, asked: Experiment) -> None:
    """Train a method on unlabelled images, predict, refine, match, score and record.

    A run whose record exists is not repeated, so an interrupted command can simply be given again.
    """
    # Wrong names end here, before torch is imported.
    registry.method(method), registry.dataset(asked.request["dataset"])

    from uss_bench import summary
    from uss_bench.record_files import record_path
    from uss_bench.runner import Outcome
    from uss_bench.setup import Request, resolve

    setup = resolve(Request(method=method, **asked.request), registry)
    if asked.dry_run:
        cells = [setup.cell(seed) for seed in asked.seeds]
        done = {cell.id for cell in cells if record_path(asked.out, cell).exists() and not asked.force}
        click.echo(summary.plan_table(cells, asked.out, done))
        return

    summary.print_header(setup)
    results = execute([Job(f"seed {seed}", setup, seed) for seed in asked.seeds], asked)
    outcomes = [result for result in results if isinstance(result, Outcome)]
    click.echo(summary.run_summary([outcome.record for outcome in outcomes]))
    for outcome in outcomes:
        click.echo(f"record  {outcome.path}\npicture {outcome.path.with_suffix('.png')}")
        if outcome.record.monitor:
            click.echo(f"curves  {outcome.path.with_suffix('.monitor.png')}")
    for result in results:
        if isinstance(result, Exception):
            raise result
