"""``uss-bench run``: the main job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from uss_bench.cli.options import FILE, common
from uss_bench.cli.run_options import Experiment, experiment_options
from uss_bench.errors import UsageError
from uss_bench.experiment.plan_file import Asked, read_plan
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.results.collection import Entry

EPILOG = """\b
Examples:
  uss-bench run --method smooseg --dataset toy3 --seeds 3
  uss-bench run --method dino --dataset folder --root camvid --classes camvid \\
                --backbone vit_small_patch14_dinov2 --weights vit.safetensors
  uss-bench run --method smooseg --dataset toy3 --set steps=1000 --set tau=0.05
  uss-bench run --method dino --dataset toy3 --protocol 'stego320@2[flip=false]'
  uss-bench run --method stego --dataset toy3 --protocol stego320@2 --protocol full@2
  uss-bench run --method smooseg --method ds2dl --dataset toy3 --seeds 5 --jobs 4 \\
                --set ds2dl.r=2 --set steps=1000
  uss-bench run --plan comparison.toml --dry-run
"""


@click.command("run", epilog=EPILOG, short_help="Train, predict, refine, match, score and record.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Method to run (uss-bench ls methods). May be repeated.",
)
@click.option(
    "--plan",
    type=FILE,
    metavar="FILE",
    help="Run what this TOML file describes, instead of options (docs/launchers.md).",
)
@experiment_options(seeds=1, several=True)
@common
@click.pass_context
def command(
    ctx: click.Context, registry: Registry, methods: tuple[str, ...], plan: Path | None, asked: Experiment
) -> None:
    """Train a method on unlabeled images, predict, refine, match, score and record.

    Every combination of methods, datasets, backbones, seeds and protocols is run. A run whose record exists
    is not repeated, so an interrupted command can simply be given again; a cell that fails stops no other.

    Trained states are kept in the cache: another protocol, or mended test labels, are evaluated without
    training, and the record says so. --force trains again. The test split is read and checked first.
    """
    if asked.execution.isolate:
        from uss_bench.experiment.isolation import IsolatingRegistry

        registry = IsolatingRegistry(registry)
    if plan is not None:
        _only_the_plan(ctx)
        name, wanted = read_plan(plan, registry)
    else:
        table = msgspec.structs.replace(asked.table, method=list(methods) or None)
        name, wanted = "run", [Asked(spec) for spec in table.cells()]
    # Wrong names end here, before torch is imported.
    for one in wanted:
        registry.method(one.spec.method), registry.dataset(one.spec.dataset)

    from uss_bench.cli.output import plans as tables
    from uss_bench.cli.output import summary
    from uss_bench.launch.planning import finished_cells, plan_cells, raise_failures
    from uss_bench.runtime import progress

    cells = plan_cells(wanted, registry)
    out = Path(asked.execution.out)
    if asked.dry_run:
        from uss_bench.cli.output.dry_run import dry_run_text

        click.echo(dry_run_text(cells, asked.execution))
        return

    settings = {one.setting for one in cells}
    if len(settings) > 1:
        progress.say(f"{len(cells)} cells in {len(settings)} settings. The first:")
    summary.print_header(cells[0].found)
    results: Sequence[Entry | Exception] | None = finished_cells(cells, asked.execution)
    if results is None:
        from uss_bench.launch.start import run_cells

        results = run_cells(cells, asked.execution, asked.start, name)
    from uss_bench.results import collection
    from uss_bench.results.files import picture_files

    entries = [result for result in results if isinstance(result, collection.Entry)]
    if len(settings) > 1:
        click.echo(tables.results_table(cells, results))
        click.echo(f"records {out}")
    else:
        click.echo(summary.run_summary([entry.record for entry in entries]))
        for entry in entries:
            pictures = picture_files(entry.path, entry.record)
            lines = [("record ", entry.path), *zip(("picture", "curves "), pictures, strict=False)]
            click.echo("\n".join(f"{what} {path}" for what, path in lines))
    raise_failures(cells, results)


_IN_PLAN = (
    *(
        "methods",
        "dataset",
        "root",
        "classes",
        "data_pairs",
        "aux_pairs",
        "backbone",
        "weights",
        "backbone_name",
    ),
    *("positions", "protocol", "preset", "set_pairs", "training_pairs", "limit", "feature_dtype"),
    *("seeds", "seed", "notes", "labels_used"),
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
