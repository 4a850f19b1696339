"""``uss-bench tune``: choose a method's setting without labels."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from uss_bench.cli.options import common
from uss_bench.cli.run_options import Experiment, experiment_options
from uss_bench.cli.study_cells import run_study
from uss_bench.errors import UsageError
from uss_bench.experiment.command_line import parse_pairs
from uss_bench.experiment.studies import Plan, Row, Study
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.formatting import assignments

EPILOG = """\b
Examples:
  uss-bench tune smooseg --dataset toy3 --try tau=0.05,0.1,0.2
  uss-bench tune stego --dataset folder --root photos --classes classes.toml \\
                 --try pos_inter_shift=0.1,0.2 --try neg_inter_shift=0.6,0.9 --seeds 2
"""
MOST_SETTINGS = 64


@click.command("tune", epilog=EPILOG, short_help="Choose a method's setting without labels.")
@click.argument("method")
@click.option(
    "--try",
    "tried",
    multiple=True,
    required=True,
    metavar="KEY=V1,V2,…",
    help="Values of a parameter to try; with several parameters, every combination. May be repeated.",
)
@click.option("--show-scores", is_flag=True, help="Also show scores by labels; they are not used to choose.")
@experiment_options(seeds=3)
@common
def command(
    registry: Registry, method: str, tried: tuple[str, ...], show_scores: bool, asked: Experiment
) -> None:
    """Run a method with every setting of --try, and choose one by criteria that need no label.

    The criteria are the agreement of seeds, that of an image and its mirror image, the balance of the
    clusters, and their silhouette in the space of the frozen features; docs/tuning.md defines them. Test
    images are read for them, and no label. What has a record is not run again.
    """
    study = Study(_plan(method, tried), Path("--try"))
    ran = run_study(registry, study, asked)
    if ran is None:
        return
    cells, results = ran

    from uss_bench.cli.output.tuning import tuning_text
    from uss_bench.launch.planning import raise_failures

    click.echo(tuning_text(study.plan, cells, results, show_scores=show_scores))
    click.echo(f"records {Path(asked.execution.out) / cells[0].found.cell.dataset.name}")
    raise_failures(cells, results)


def _plan(method: str, tried: tuple[str, ...]) -> Plan:
    """Return every combination of the values as a study.

    Raises:
        UsageError: when a value is missing or comes twice, or there are too many combinations.
    """
    values: dict[str, list[object]] = {}
    for pair in tried:
        name, equals, text = pair.partition("=")
        if not equals or not name or not all(part.strip() for part in text.split(",")):
            raise UsageError(f"--try takes KEY=V1,V2,…, not '{pair}'.")
        if name in values:
            raise UsageError(f"--try names '{name}' twice.", hint=f"Put them together: --try {name}=A,B")
        read = [parse_pairs((f"{name}={part.strip()}",), "--try") for part in text.split(",")]
        key = next(iter(read[0]))
        values[key] = [one[key] for one in read]
    combinations = list(itertools.product(*values.values()))
    if len(combinations) > MOST_SETTINGS:
        raise UsageError(
            f"--try asks for {len(combinations)} settings; at most {MOST_SETTINGS} are compared at once.",
            hint="Try fewer values, or one parameter after the other.",
        )
    settings = [dict(zip(values, combination, strict=True)) for combination in combinations]
    labels = [assignments(one) for one in settings]
    if len(set(labels)) < max(2, len(labels)):
        raise UsageError(
            "--try needs at least two settings." if len(labels) < 2 else "--try names a value twice.",
            hint="For example: --try tau=0.05,0.1,0.2",
        )
    rows = [Row(label, params) for label, params in zip(labels, settings, strict=True)]
    return Plan(name=f"tune-{method}", title="Tuning without labels", method=method, rows=rows)
