"""``uss-bench rerun``: a record repeated from its own command, and its numbers compared."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uss_bench.cli.options import DIR, PATH, aux_option, common, workers_option
from uss_bench.errors import RegressionError, RunError, UsageError, UssBenchError
from uss_bench.experiment.recipe import Recipe, read_recipe
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.experiment.setup import Setup
    from uss_bench.results.collection import Entry
    from uss_bench.results.record import RunRecord

EPILOG = """\b
Examples:
  uss-bench rerun results/toy3/smooseg-s0-1a556007c5e9.json
  uss-bench rerun 1a556007 --out repeated
  uss-bench rerun leaderboards/records/camvid/dino-s0-0123456789ab.json \\
                  --root camvid --weights vit.safetensors
"""


@click.command(
    "rerun", epilog=EPILOG, short_help="Repeat a record, and say whether its numbers are the same."
)
@click.argument("record")
@click.option(
    "--out",
    type=DIR,
    metavar="DIR",
    help="Keep the new record in this folder. Default: compare it, then delete it.",
)
@click.option(
    "--records",
    "folder",
    type=DIR,
    default="results",
    show_default=True,
    metavar="DIR",
    help="Folder in which to find a record by its id.",
)
@click.option(
    "--root",
    type=PATH,
    metavar="DIR",
    help="The dataset's folder on this machine. Default: as in the record's command.",
)
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="Weights file on this machine. Default: as in the record's command.",
)
@aux_option("Folder of a channel's maps on this machine. Default: as in the record's command.")
@click.option("--device", help="cpu, cuda, … Default: as in the record's command.")
@workers_option
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Torch threads; the last bits of results depend on it. Default: as in the record's command.",
)
@common
def command(
    registry: Registry,
    record: str,
    out: Path | None,
    folder: Path,
    root: Path | None,
    weights: Path | None,
    aux_pairs: tuple[str, ...],
    device: str | None,
    workers: int | None,
    threads: int | None,
) -> None:
    """Repeat a RECORD (its path, or the start of its id) from its own command, and compare every count.

    Before it runs, it says in what code, versions, data, weights and machine differ from then. The
    record's inputs count, with its command for where they lie; no shell is asked, and no plugin is loaded
    that --plugin does not name. Relative paths are taken from the folder that you are in.

    Exits with 0 when all counts are equal; with 3 when they moved though nothing differs that should move
    them; with 1 when they moved and something does, or when the record cannot be repeated.
    """
    from uss_bench.results.files import find_record, read_arrays, read_record

    path = find_record(record, [folder])
    before = read_record(path)
    _check_counts(before)
    recipe = read_recipe(before, root=root, weights=weights, aux_pairs=aux_pairs)
    arrays = read_arrays(path, before)

    from uss_bench.cli.output import rerun as rerun_report
    from uss_bench.results.differences import class_movements, differences, movement
    from uss_bench.results.provenance import environment
    from uss_bench.runtime.device import pick_device

    with _cannot_be_repeated(f"Its command was: {before.command}"):
        setup = recipe.setup(registry).upon(path.parents[1])
        chosen = pick_device(device or recipe.options["device"])
        if count := threads or recipe.options["threads"]:
            import torch

            torch.set_num_threads(count)
    found = differences(before, setup.cell(before.cell.seed), environment(str(chosen)))
    click.echo(rerun_report.differences_text(before, path, found))
    if found["input"]:
        raise RunError(
            f"{path} cannot be repeated. Others would be: {', '.join(one.field for one in found['input'])}.",
            hint="Give the data and weights that it was made from: --root DIR, --weights FILE.",
        )
    with contextlib.ExitStack() as stack:
        place = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uss-bench-rerun-")))
        outcome = _repeat(recipe, setup, chosen, place, workers)
        moved = movement(arrays, read_arrays(outcome.path, outcome.record))
    if out is not None:
        click.echo(f"record  {outcome.path}")
    if moved is None:
        click.echo("Every count is equal.")
        return
    classes = class_movements(before, outcome.record, moved)
    click.echo(rerun_report.movement_text(before, outcome.record, moved, classes))
    what = f"The numbers of {path} moved: {moved.share:.2%} of the pixels at least"
    if found["cause"]:
        raise RunError(
            f"{what}, and so did what may move them: {', '.join(one.field for one in found['cause'])}.",
            hint="Repeat it with the code, the versions and the machine of the record, to tell them apart.",
        )
    raise RegressionError(
        f"{what}, and nothing differs that should move them.",
        hint="Run it again: if it moves every time, a change of the harness did it; if not, the method "
        "is not deterministic.",
    )


def _check_counts(record: RunRecord) -> None:
    if record.status == "failed":
        raise RunError(
            f"Record {record.id} is of a run that failed: it has no numbers to compare.",
            hint=f"Run its command again: {record.command or 'it is not known'}",
        )
    if record.last is None:
        raise RunError(f"Record {record.id} was made without labels: it has no counts to compare.")


@contextlib.contextmanager
def _cannot_be_repeated(hint: str) -> Iterator[None]:
    """Turn a wrong name, or missing data, into a failed run: the record asks for what does not exist."""
    try:
        yield
    except UssBenchError as error:
        advice = f"{error.hint}\n  {hint}" if error.hint else hint
        raise RunError(f"The record cannot be repeated. {error.what}", hint=advice) from error


def _repeat(recipe: Recipe, setup: Setup, device: Any, out: Path, workers: int | None) -> Entry:
    from uss_bench.experiment.runner import run_cell
    from uss_bench.results.files import record_path
    from uss_bench.runtime import progress

    record = recipe.record
    seed = record.cell.seed
    path = record_path(out, setup.cell(seed))
    if path.exists():
        raise UsageError(f"{path} exists already.", hint="Choose another folder: --out DIR.")
    store = setup.open_store(device, budget=int(recipe.options["store_budget"] * 1e9))
    engine: Any = record.crf_engine or "lattice"
    progress.log(f"repeating {record.stem}")
    with setup.open_crf(engine=engine, workers=workers) as pool:
        return run_cell(
            setup,
            seed,
            store=store,
            pool=pool,
            out=out,
            crf_engine=engine,
            command=recipe.command,
            notes=(*recipe.options["notes"], f"repeats record {record.id}"),
            labels_used=tuple(record.labels_used),
        )
