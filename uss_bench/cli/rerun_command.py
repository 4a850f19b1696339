"""``uss-bench rerun``: a record repeated from its own command, and its numbers compared."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uss_bench.cli.options import collect_data, common
from uss_bench.errors import RegressionError, RunError, UsageError, UssBenchError
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.records import RunRecord
    from uss_bench.runner import Outcome
    from uss_bench.setup import Setup

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
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the new record there. Default: it is compared and thrown away.",
)
@click.option(
    "--records",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="results",
    show_default=True,
    metavar="DIR",
    help="Where a record is looked for by its id.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the dataset lies now. Default: as in the record's command.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the weights lie now. Default: as in the record's command.",
)
@click.option("--device", help="cpu, cuda, … Default: as in the record's command.")
@click.option("--workers", type=click.IntRange(1), help="Processes for the CRF. Default: all cores.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of torch, which may move last bits. Default: as in the record's command.",
)
@common
def command(
    registry: Registry,
    record: str,
    out: Path | None,
    folder: Path,
    root: Path | None,
    weights: Path | None,
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
    from uss_bench.record_files import find_record, read_arrays, read_record

    path = find_record(record, [folder])
    before = read_record(path)
    recipe = read_recipe(before, root=root, weights=weights)
    arrays = read_arrays(path, before)

    from uss_bench import rerun_report
    from uss_bench.device import pick_device
    from uss_bench.provenance import environment
    from uss_bench.rerun import class_movements, differences, movement

    with _cannot_be_repeated(f"Its command was: {before.command}"):
        setup = recipe.setup(before, registry)
        chosen = pick_device(device or recipe.options["device"])
        recipe.use_threads(threads)
    found = differences(before, setup.cell(before.cell.seed), environment(str(chosen)))
    click.echo(rerun_report.differences_text(before, path, found))
    inputs = [one for one in found if one.weight == "input"]
    if inputs:
        raise RunError(
            f"{path} cannot be repeated. Others would be: {', '.join(one.what for one in inputs)}.",
            hint="Give the data and weights that it was made from: --root DIR, --weights FILE.",
        )
    with contextlib.ExitStack() as stack:
        place = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uss-bench-rerun-")))
        outcome = _repeat(before, setup, recipe, chosen, place, workers)
        moved = movement(arrays, read_arrays(outcome.path, outcome.record))
    if out is not None:
        click.echo(f"record  {outcome.path}")
    if moved is None:
        click.echo("Every count is equal.")
        return
    classes = class_movements(before, outcome.record, moved)
    click.echo(rerun_report.movement_text(before, outcome.record, moved, classes))
    causes = [one.what for one in found if one.weight == "cause"]
    what = f"The numbers of {path} moved: {moved.share:.2%} of the pixels at least"
    if causes:
        raise RunError(
            f"{what}, and so did what may move them: {', '.join(causes)}.",
            hint="Repeat it with the code, the versions and the machine of the record, to tell them apart.",
        )
    raise RegressionError(
        f"{what}, and nothing differs that should move them.",
        hint="Run it again: if it moves every time, a change of the harness did it; if not, the method "
        "is not deterministic.",
    )


@dataclass(frozen=True)
class Recipe:
    """What a record's command says that its cell does not: where data and weights lie, and how it ran."""

    options: dict[str, Any]
    """The command's options by the names of its parameters."""
    command: str
    """The command, with what the user gives instead appended to it."""

    def setup(self, record: RunRecord, registry: Registry) -> Setup:
        """Resolve what would run: the record's inputs, from where its command has them.

        Raises:
            UssBenchError: when a name, an option, data or weights are not there any more.
        """
        from uss_bench.setup import Request, resolve

        cell = record.cell
        data = collect_data(*(self.options[name] for name in ("root", "classes", "data_pairs")))
        request = Request(
            method=cell.method.name,
            dataset=self._only("dataset"),
            dataset_options=data,
            backbone=self._only("backbone"),
            weights=self.options["weights"],
            backbone_name=self.options["backbone_name"],
            protocol=cell.protocol,
            params=cell.method.params,
            limit=cell.dataset.limit,
            feature_dtype=self.options["feature_dtype"],
        )
        return resolve(request, registry)

    def use_threads(self, threads: int | None) -> None:
        """Let torch use so many threads, or else as many as the command says."""
        import torch

        count = threads or self.options["threads"]
        if count is not None:
            torch.set_num_threads(count)

    def _only(self, name: str) -> Any:
        """Return an option that ``run`` takes several times and a record's command gives once at most.

        Raises:
            RunError: when the command is of several cells.
        """
        given = self.options[name]
        if not isinstance(given, tuple):
            return given
        if len(given) > 1:
            raise RunError(f"The command names several of --{name}, and a record is of one.")
        return given[0] if given else None


def read_recipe(record: RunRecord, *, root: Path | None = None, weights: Path | None = None) -> Recipe:
    """Parse the command of a record, as ``uss-bench run`` and ``uss-bench study`` would.

    Raises:
        RunError: when the record has no counts, or its command is none of these.
    """
    from uss_bench.cli import run_command, study_command

    if record.status == "failed":
        raise RunError(
            f"Record {record.id} is of a run that failed: it has no numbers to compare.",
            hint=f"Run its command again: {record.command or 'it is not known'}",
        )
    if record.last is None:
        raise RunError(f"Record {record.id} was made without labels: it has no counts to compare.")
    try:
        words = shlex.split(record.command)
    except ValueError:
        words = []
    parsers = {"run": run_command.command, "study": study_command.command}
    if len(words) < 2 or words[0] != "uss-bench" or words[1] not in parsers:
        raise RunError(
            f"Record {record.id} cannot be repeated: it was not made by 'uss-bench run' or 'study', but by "
            f"'{record.command or 'a program that does not say how'}'."
        )
    given = [("--root", root), ("--weights", weights)]
    words += [word for flag, value in given if value is not None for word in (flag, str(value))]
    try:
        options = parsers[words[1]].make_context(words[1], words[2:], help_option_names=[]).params
    except click.ClickException as error:
        raise RunError(
            f"Record {record.id} cannot be repeated: its command is not understood. {error.format_message()}",
            hint=f"The command is: {record.command}",
        ) from None
    return Recipe(options, shlex.join(words))


@contextlib.contextmanager
def _cannot_be_repeated(hint: str) -> Iterator[None]:
    """Turn a wrong name, or missing data, into what it is here: the record asks for what is not there."""
    try:
        yield
    except UssBenchError as error:
        advice = f"{error.hint}\n  {hint}" if error.hint else hint
        raise RunError(f"The record cannot be repeated. {error.what}", hint=advice) from error


def _repeat(
    record: RunRecord, setup: Setup, recipe: Recipe, device: Any, out: Path, workers: int | None
) -> Outcome:
    from uss_bench import progress
    from uss_bench.crf import CrfPool
    from uss_bench.record_files import record_path
    from uss_bench.runner import run_cell

    seed = record.cell.seed
    path = record_path(out, setup.cell(seed))
    if path.exists():
        raise UsageError(f"{path} is there already.", hint="Choose another folder: --out DIR.")
    store = setup.open_store(
        device,
        budget=int(recipe.options["store_budget"] * 1e9),
    )
    engine: Any = record.crf_engine
    progress.log(f"repeating {record.stem}")
    with CrfPool(setup.protocol.crf, engine=engine, workers=workers, log=progress.log) as pool:
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
