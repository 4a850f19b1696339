"""What commands that run cells share: their options, and a loop in which a failed cell stops no other."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uss_bench.cli.options import collect_data, dataset_options, out_option, parse_pairs
from uss_bench.errors import UsageError, UssBenchError

if TYPE_CHECKING:
    from uss_bench.runner import Outcome
    from uss_bench.setup import Setup

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the shared options ask for."""

    request: dict[str, Any]
    """The fields of `uss_bench.setup.Request` besides the method."""
    seeds: range
    device: str
    out: Path
    force: bool
    dry_run: bool
    crf_engine: Any
    workers: int | None
    store_budget: float
    notes: tuple[str, ...]
    labels_used: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One cell to run, and what messages call it."""

    label: str
    setup: Setup
    seed: int


def request_options(command: C) -> C:
    """Add what names a setup; the command receives `request`, a dictionary as in `Experiment`."""

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        return {"request": _request(values)}

    return dataset_options(_with_options(command, _REQUEST, collect))


def experiment_options(*, seeds: int) -> Callable[[C], C]:
    """Add what names a setup and says how to run it; the command receives `asked`, an `Experiment`.

    Args:
        seeds: the default number of seeds.
    """
    repetitions = [
        click.option(
            "--seeds",
            default=seeds,
            show_default=True,
            type=click.IntRange(1),
            help="Number of seeds, from --seed.",
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The first seed."),
    ]

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        request = _request(values)
        first = values.pop("seed")
        numbers = range(first, first + values.pop("seeds"))
        own = {name: values.pop(name) for name in _EXECUTION_FIELDS}
        return {"asked": Experiment(request=request, seeds=numbers, **own)}

    def add(command: C) -> C:
        return dataset_options(_with_options(command, [*_REQUEST, *repetitions, *_EXECUTION], collect))

    return add


def _with_options(
    command: C,
    options: Sequence[Callable[[Any], Any]],
    collect: Callable[[dict[str, Any]], dict[str, Any]],
) -> C:
    """Add click options; `collect` takes their values out of the command's arguments and returns others."""

    def collected(*args: Any, **kwargs: Any) -> Any:
        gathered = collect(kwargs)
        return command(*args, **gathered, **kwargs)

    collected.__name__ = command.__name__
    collected.__doc__ = command.__doc__
    decorated: Any = collected
    decorated.__click_params__ = getattr(command, "__click_params__", [])
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _request(values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `_REQUEST` and of the dataset out of `values`, as the fields of a `Request`."""
    data = collect_data(values.pop("root"), values.pop("classes"), values.pop("data_pairs"))
    params = parse_pairs(values.pop("set_pairs"), "--set")
    names = (
        *("dataset", "backbone", "weights", "backbone_name"),
        *("protocol", "preset", "limit", "feature_dtype"),
    )
    request = {name: values.pop(name) for name in names}
    if request["weights"] is not None and request["backbone"] is None:
        raise UsageError("--weights needs --backbone, to know which network they belong to.")
    return {**request, "dataset_options": data, "params": params}


_REQUEST = [
    click.option(
        "--backbone", metavar="NAME", help="uss-bench ls backbones, or any timm ViT. Default: the dataset's."
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Weights: .safetensors, or .pth read safely.",
    ),
    click.option(
        "--backbone-name", metavar="NAME", help="What records call this backbone with these weights."
    ),
    click.option(
        "--protocol", metavar="NAME", help="uss-bench ls protocols. Default: stego320@1, or stego322@1."
    ),
    click.option(
        "--preset", metavar="NAME", help="Published parameters. Default: those that fit the dataset."
    ),
    click.option("--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the method."),
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="At most N images of each split, evenly spaced."
    ),
    click.option(
        "--feature-dtype",
        type=click.Choice(["float16", "float32"]),
        default="float16",
        show_default=True,
        help="How features are stored.",
    ),
]

_EXECUTION = [
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …"),
    out_option("Where records go. Default: results."),
    click.option("--force", is_flag=True, help="Run again what has a record."),
    click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing."),
    click.option(
        "--crf",
        "crf_engine",
        type=click.Choice(["lattice", "pydensecrf"]),
        default="lattice",
        show_default=True,
        help="CRF engine; the two are proved equal.",
    ),
    click.option("--workers", type=click.IntRange(1), help="Processes for the CRF. Default: all cores."),
    click.option(
        "--store-budget",
        type=float,
        default=50.0,
        show_default=True,
        metavar="GB",
        help="Features beyond this are streamed from the backbone.",
    ),
    click.option("--note", "notes", multiple=True, help="A remark for the record. May be repeated."),
    click.option(
        "--labels-used", multiple=True, metavar="WHAT", help="Own up to labels used, e.g. 'tuning'."
    ),
]
_EXECUTION_FIELDS = [one.name for one in fields(Experiment) if one.name not in ("request", "seeds")]


def execute(jobs: Sequence[Job], asked: Experiment) -> list[Outcome | Exception]:
    """Run the cells that have no record, and return what became of each, in the order of `jobs`.

    The jobs share dataset, backbone and protocol, so features are extracted once for all.
    """
    from uss_bench import progress
    from uss_bench.crf import CrfPool
    from uss_bench.device import pick_device
    from uss_bench.pictures import draw_missing, draw_pictures
    from uss_bench.record_files import read_record, record_path
    from uss_bench.runner import Outcome, run_cell

    shared = jobs[0].setup
    device = pick_device(asked.device)
    store = shared.open_store(
        device,
        budget=int(asked.store_budget * 1e9),
    )
    results: list[Outcome | Exception] = []
    with CrfPool(
        shared.protocol.crf, engine=asked.crf_engine, workers=asked.workers, log=progress.log
    ) as pool:
        for job in jobs:
            path = record_path(asked.out, job.setup.cell(job.seed))
            try:
                if path.exists() and not asked.force:
                    progress.log(f"{job.label}: done before, see {path}")
                    draw_missing(path, job.setup)
                    results.append(Outcome(path, read_record(path)))
                    continue
                progress.log(f"{job.label}: {job.setup.spec.name} on {job.setup.dataset.name}")
                outcome = run_cell(
                    job.setup,
                    job.seed,
                    store=store,
                    pool=pool,
                    out=asked.out,
                    crf_engine=asked.crf_engine,
                    command=shlex.join(["uss-bench", *sys.argv[1:]]),
                    notes=asked.notes,
                    labels_used=asked.labels_used,
                )
                draw_pictures(outcome.path, job.setup)
            except Exception as error:
                progress.log(
                    f"{job.label} failed: {error.what if isinstance(error, UssBenchError) else error}"
                )
                results.append(error)
                continue
            results.append(outcome)
    return results
