"""``uss-bench verify-record``: anybody's record evaluated again from its state."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from uss_bench.cli.options import PATH, aux_option, common, data_options, device_option, workers_option
from uss_bench.errors import RegressionError, RunError
from uss_bench.experiment.command_line import collect_data
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench verify-record results/toy3/smooseg-s0-1a556007c5e9.json
  uss-bench verify-record 1a556007 --root /data/camvid --weights vit.safetensors
"""


@click.command("verify-record", epilog=EPILOG, short_help="Evaluate a record again from its state.")
@click.argument("record")
@click.option(
    "--records",
    "folder",
    type=PATH,
    default="results",
    show_default=True,
    metavar="DIR",
    help="Folder in which to find a record by its id.",
)
@click.option("--dataset", metavar="NAME", help="Dataset plugin. Default: as in the record's command.")
@data_options
@click.option(
    "--weights", type=PATH, metavar="FILE", help="Weights file. Default: as in the record's command."
)
@click.option("--backbone", metavar="NAME", help="Backbone of the record. Default: as in its command.")
@aux_option("Folder of a channel's maps. Default: as in the record's command.")
@device_option
@workers_option
@common
def command(
    registry: Registry,
    record: str,
    folder: Path,
    dataset: str | None,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    weights: Path | None,
    backbone: str | None,
    aux_pairs: tuple[str, ...],
    device: str,
    workers: int | None,
) -> None:
    """Evaluate the trained state of RECORD (its path, or the start of its id) again, and compare the counts.

    Nothing is trained, so it takes minutes for anybody's record. Where at most one pixel in a thousand is in
    another cluster, which is what rounding on another machine does, the record is verified: a small file
    beside it says so, and boards mark it. Exits with 3 where the counts are others.
    """
    from uss_bench.experiment.recipe import find_recipe
    from uss_bench.experiment.verifying import verify
    from uss_bench.results.files import find_record, read_record
    from uss_bench.results.provenance import environment
    from uss_bench.results.verification import (
        TOLERANCE,
        Verification,
        digest_of_files,
        write_verification,
    )
    from uss_bench.runtime.device import pick_device

    path = find_record(record, [folder])
    found = read_record(path)
    if found.last is None:
        raise RunError(f"{path} has no counts to compare: the run failed, or its images had no labels.")
    collect_data(root, classes, data_pairs)  # a wrong pair ends here
    places = {"root": root, "classes": classes, "data_pairs": data_pairs, "aux_pairs": aux_pairs}
    recipe = find_recipe(found, dataset=dataset, backbone=backbone, weights=weights, **places)
    setup = recipe.setup(registry)
    torch_device = pick_device(device)
    with setup.open_crf(workers=workers) as pool:
        moved = verify(path, found, setup, registry, setup.open_store(torch_device), pool)
    result = Verification(
        files=digest_of_files(path),
        moved=0.0 if moved is None else moved.share,
        environment=environment(str(torch_device)),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    written = write_verification(path, result)
    equal = "every count is equal" if moved is None else f"{result.moved:.3%} of the pixels moved"
    if not result.holds:
        raise RegressionError(
            f"{path} is not verified: {equal}, and at most {TOLERANCE:.1%} may.",
            hint=f"uss-bench rerun {found.id[:12]} shows what differs from then.",
        )
    click.echo(f"verified: {equal}\nnoted in {written}")
