"""``uss-bench diagnose``: what a method shows of itself without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from uss_bench.cli.options import common, device_option, out_option
from uss_bench.cli.run_options import request_options
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench diagnose smooseg --dataset toy3
  uss-bench diagnose smooseg --dataset folder --root photos --set clusters=8 --set b_inter=0.6 \\
                     --backbone vit_small_patch14_dinov2
"""


@click.command("diagnose", epilog=EPILOG, short_help="Judge a method's parameters without labels.")
@click.argument("method")
@request_options
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the run to find.")
@device_option
@out_option("Results folder, also for the figure. Default: results.")
@common
def command(
    registry: Registry, method: str, asked: dict[str, Any], seed: int, device: str, out: Path
) -> None:
    """Show what METHOD offers to judge its parameters by, from unlabeled training images alone.

    'uss-bench info METHOD' says what that is. With --set it tries other parameters. If the method has run
    with these very options, its diagnosis may show what was learned as well.
    """
    registry.method(method)
    registry.dataset(asked["dataset"])  # wrong names end here, before torch is imported

    from uss_bench.experiment.cells import CellSpec
    from uss_bench.experiment.diagnosis import diagnose
    from uss_bench.experiment.resolving import resolve
    from uss_bench.runtime.device import pick_device

    setup = resolve(CellSpec(method=method, **asked), registry)
    text, figure = diagnose(setup, registry, seed=seed, out=out, device=pick_device(device))
    backbone = setup.backbone.name
    title = f"{setup.spec.called(backbone)} · {setup.dataset.name} · {backbone}"
    click.echo(f"{click.style(title, bold=True)}\n")
    click.echo(text)
    if figure is not None:
        from uss_bench.plots.style import save

        target = out / setup.dataset.name / f"{method}-diagnosis-{setup.backbone.name}.png"
        save(figure, target)
        click.echo(f"figure  {target}")
