"""``uss-bench run``: the main job."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from uss_bench.cli.experiment import Experiment, experiment_options
from uss_bench.cli.options import common
from uss_bench.errors import UsageError
from uss_bench.launch.plan_file import Asked, read_plan
from uss_bench.registry import Registry

EPILOG = """\b
Examples:
  uss-bench run --method smooseg --dataset toy3 --seeds 3
  uss-bench run --method dino --dataset folder --root camvid --classes camvid \\
                --backbone vit_small_patch14_dinov2 --weights vit.safetensors
  uss-bench run --method smooseg --dataset toy3 --set steps=1000 --set tau=0.05
  uss-bench run --method dino --dataset toy3 --protocol 'stego320@1[flip=false]'
  uss-bench run --method smooseg --method ds2dl --dataset toy3 --seeds 5 --jobs 4
  uss-bench run --plan comparison.toml --dry-run
"""


@click.command("run", epilog=EPILOG, short_help="Train, predict, refine, match, score and record.")
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", help="uss-bench ls methods. May be repeated."
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What to run, as a TOML file says (docs/launchers.md), in place of options.",
)
@experiment_options(seeds=1, several=True)
@common
@click.pass_context
def command(
    ctx: click.Context, registry: Registry, methods: tuple[str, ...], plan: Path | None, asked: Experiment
) -> None:
    """Train a method on unlabelled images, predict, refine, match, score and record.

    Several methods, datasets and backbones are run each with each. A run whose record exists is not
    repeated, so an interrupted command can simply be given again; a cell that fails stops no other.
    """
    if plan is not None:
        _only_the_plan(ctx)
        name, wanted = read_plan(plan, registry)
    else:
        table = msgspec.structs.replace(asked.table, method=list(methods) or None)
        name, wanted = "run", [Asked(spec) for spec in table.cells()]
    # Wrong names end here, before torch is imported.
    for one in wanted:
        registry.method(one.spec.method), registry.dataset(one.spec.dataset)

    from uss_bench import progress, summary
    from uss_bench.estimate.dry_run import dry_run_text
    from uss_bench.launch import tables
    from uss_bench.launch.planning import plan_cells
    from uss_bench.launch.start import run_cells
    from uss_bench.runner import Outcome

    cells = plan_cells(wanted, registry)
    out = Path(asked.execution.out)
    if asked.dry_run:
        click.echo(dry_run_text(cells, asked.execution))
        return

    settings = {one.setting for one in cells}
    if len(settings) > 1:
        progress.say(f"{len(cells)} cells in {len(settings)} settings. The first:")
    summary.print_header(cells[0].setup)
    results = run_cells(cells, asked.execution, asked.start, name)
    outcomes = [result for result in results if isinstance(result, Outcome)]
    if len(settings) > 1:
        click.echo(tables.results_table(cells, results))
        click.echo(f"records {out}")
    else:
        click.echo(summary.run_summary([outcome.record for outcome in outcomes]))
        for outcome in outcomes:
            click.echo(f"record  {outcome.path}\npicture {outcome.path.with_suffix('.png')}")
            if outcome.record.monitor:
                click.echo(f"curves  {outcome.path.with_suffix('.monitor.png')}")
    tables.raise_failures(cells, results)


_IN_PLAN = (
    *("methods", "dataset", "root", "classes", "data_pairs", "backbone", "weights", "backbone_name"),
    *("protocol", "preset", "set_pairs", "limit", "feature_dtype", "seeds", "seed", "notes", "labels_used"),
)


def _only_the_plan(ctx: click.Context) -> None:
    """Refuse options beside a plan that its tables have as keys."""
    for name in _IN_PLAN:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = next(one.opts[0] for one in ctx.command.params if one.name == name)
            raise UsageError(
                f"{flag} and --plan both say what to run.",
                hint="Write it into the plan; [defaults] holds for all of its tables.",
            )
