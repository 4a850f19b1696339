"""What commands that run cells share: the options that say what to run, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from uss_bench.cli.options import (
    FiniteRange,
    collect_data,
    data_options,
    dataset_options,
    out_option,
    parse_pairs,
)
from uss_bench.errors import UsageError
from uss_bench.launch.launchers import find_launcher, launcher_options
from uss_bench.launch.plan_file import RunTable
from uss_bench.launch.work import Execution, Start, here

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the shared options ask for."""

    table: RunTable
    """What to run, as a table of a plan file would say it."""
    execution: Execution
    start: Start
    dry_run: bool


def request_options(command: C) -> C:
    """Add what names a setup; the command receives `request`, the fields of a `Request` but the method."""

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        data = collect_data(values.pop("root"), values.pop("classes"), values.pop("data_pairs"))
        params = parse_pairs(values.pop("set_pairs"), "--set")
        request = {name: values.pop(name) for name in ("dataset", "backbone", *_NAMES)}
        if request["weights"] is not None and request["backbone"] is None:
            raise UsageError("--weights needs --backbone, to know which network they belong to.")
        return {"request": {**request, "dataset_options": data, "params": params}}

    return dataset_options(_with_options(command, [_backbone(several=False), *_REQUEST], collect))


def experiment_options(*, seeds: int, several: bool = False) -> Callable[[C], C]:
    """Add what says what to run and how; the command receives `asked`, an `Experiment`.

    Args:
        seeds: the default number of seeds.
        several: whether several datasets and backbones may be named, or none.
    """

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        return {"asked": _experiment(values)}

    def add(command: C) -> C:
        options = [_backbone(several=several), *_REQUEST, *_seeds(seeds), *_EXECUTION]
        collected = _with_options(command, options, collect)
        if not several:
            return dataset_options(collected)
        return click.option(
            "--dataset", multiple=True, metavar="NAME", help="uss-bench ls datasets. May be repeated."
        )(data_options(collected))

    return add


def _experiment(values: dict[str, Any]) -> Experiment:
    root, weights = values.pop("root"), values.pop("weights")
    table = RunTable(
        dataset=_names(values.pop("dataset")),
        root=None if root is None else str(root),
        classes=values.pop("classes"),
        data=parse_pairs(values.pop("data_pairs"), "--data"),
        backbone=_names(values.pop("backbone")),
        weights=None if weights is None else str(weights),
        params=parse_pairs(values.pop("set_pairs"), "--set"),
        note=list(values.pop("notes")),
        labels_used=list(values.pop("labels_used")),
        **{name: values.pop(name) for name in (*_NAMES[1:], "seeds", "seed")},
    )
    launcher, config = values.pop("launcher"), values.pop("launcher_config")
    options = launcher_options(config, parse_pairs(values.pop("launcher_pairs"), "--launcher-set"))
    if launcher is not None:
        find_launcher(launcher).check(options)  # what is wrong ends here, before torch is imported
    elif options:
        raise UsageError("--launcher-set and --launcher-config need a --launcher to set.")
    start = Start(launcher, options, values.pop("jobs"), values.pop("retries"))
    dry_run = values.pop("dry_run")
    own = {name: values.pop(name) for name in _EXECUTION_FIELDS}
    plugins = [str(folder) for folder in values["plugin"]]  # `common` makes the registry of them
    execution = Execution(out=str(values.pop("out")), plugins=plugins, **own, **here())
    return Experiment(table=table, execution=execution, start=start, dry_run=dry_run)


def _names(given: str | Sequence[str] | None) -> list[str] | None:
    if not given:
        return None
    return [given] if isinstance(given, str) else list(given)


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


def _backbone(*, several: bool) -> Callable[[Any], Any]:
    more = " May be repeated." if several else ""
    return click.option(
        "--backbone",
        multiple=several,
        metavar="NAME",
        help=f"uss-bench ls backbones, or any timm ViT. Default: the dataset's.{more}",
    )


def _seeds(number: int) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--seeds",
            default=number,
            show_default=True,
            type=click.IntRange(1),
            help="Number of seeds, from --seed.",
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The first seed."),
    ]


_NAMES = ("weights", "backbone_name", "protocol", "preset", "limit", "feature_dtype")
_REQUEST = [
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


def _order(context: click.Context, parameter: click.Parameter, given: bool) -> str:
    if not given:
        return ""
    from uss_bench.record_files import new_order

    return new_order()


_EXECUTION = [
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …"),
    out_option("Where records go. Default: results."),
    click.option("--force", is_flag=True, callback=_order, help="Run again what has a record."),
    click.option("--dry-run", is_flag=True, help="Say what would run and what it would take; run nothing."),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Run N cells at a time, in processes of their own. Default: one, in this process.",
    ),
    click.option("--launcher", metavar="NAME", help="Who starts the processes: local, or one for a cluster."),
    click.option(
        "--launcher-set",
        "launcher_pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the launcher.",
    ),
    click.option(
        "--launcher-config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Options of the launcher in a TOML file.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        help="How often a cell whose process dies is started again.",
    ),
    click.option(
        "--crf",
        "crf_engine",
        type=click.Choice(["lattice", "pydensecrf"]),
        default="lattice",
        show_default=True,
        help="CRF engine; the two are proved equal.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes for the CRF, of each cell. Default: all cores, or a job's share of them.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        help="Threads of torch, of each cell; last bits depend on it. Default: torch's, or a job's share.",
    ),
    click.option(
        "--snapshot-every",
        "snapshot_seconds",
        type=FiniteRange(0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How much training may be lost when a run is killed.",
    ),
    click.option(
        "--store-budget",
        type=FiniteRange(0),
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
_EXECUTION_FIELDS = (
    *("device", "store_budget", "crf_engine", "workers", "threads", "force"),
    "snapshot_seconds",
)
