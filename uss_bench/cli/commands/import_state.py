"""``uss-bench import-state``: evaluate official checkpoints like runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from uss_bench.cli.options import FILE, common, device_option, out_option, workers_option
from uss_bench.cli.run_options import request_options
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench import-state stego cocostuff27_vit_base_5.ckpt --dataset cocostuff27 --root coco \\
                         --backbone dino_vitb8
  uss-bench import-state smooseg potsdam.ckpt --dataset potsdam3 --root potsdam --backbone dino_vitb8
"""


@click.command("import-state", epilog=EPILOG, short_help="Evaluate an official checkpoint like a run.")
@click.argument("method")
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@request_options
@device_option
@workers_option
@out_option("Results folder. Default: results.")
@common
def command(
    registry: Registry,
    method: str,
    files: tuple[Path, ...],
    asked: dict[str, Any],
    device: str,
    workers: int | None,
    out: Path,
) -> None:
    """Turn an official checkpoint of METHOD into a state that is evaluated, recorded and boarded.

    Nothing is trained. The record is one of METHOD, marked 'released weights', in the tables of its data,
    protocol and backbone; where labels chose the checkpoint, its row is shown and not ranked. CAUSE has two
    FILEs, which are read as one.

    Nothing in a file is executed. Its tensors decide the clusters and dimensions. What cannot be taken over
    exactly is refused with the reason, and so is a backbone whose weights are not those of the network in
    the file. 'uss-bench info METHOD' says where the checkpoints come from.
    """
    registry.method(method)
    registry.dataset(asked["dataset"])  # wrong names end here, before torch is imported

    from uss_bench.cli.output import summary
    from uss_bench.experiment.cells import CellSpec
    from uss_bench.experiment.released import with_released_state
    from uss_bench.experiment.runner import run_cell
    from uss_bench.plots.panels import save_panel
    from uss_bench.runtime.device import pick_device

    setup = with_released_state(CellSpec(method=method, **asked), files, registry)
    store = setup.open_store(pick_device(device))
    with setup.open_crf(workers=workers) as pool:
        entry = run_cell(
            setup,
            0,
            store=store,
            pool=pool,
            out=out,
            crf_engine="lattice",
            command=shlex.join(["uss-bench", *sys.argv[1:]]),
            labels_used=tuple(setup.spec.released.labels_used) if setup.spec.released else (),
        )
    save_panel(entry.path, setup.test_images, setup.test_labels)
    click.echo(summary.run_summary([entry.record]))
    click.echo(f"record  {entry.path}\npicture {entry.path.with_suffix('.png')}")
