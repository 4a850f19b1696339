"""Options of the commands that run cells: what to run, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from uss_bench.cli.options import (
    COUNT,
    FILE,
    PATH,
    PROCESSES,
    SEED,
    FiniteRange,
    aux_option,
    data_options,
    dataset_options,
    device_option,
    gathered,
    out_option,
)
from uss_bench.errors import UsageError
from uss_bench.experiment.cells import Execution, Start, here
from uss_bench.experiment.command_line import collect_data, parse_folders, parse_pairs
from uss_bench.experiment.plan_file import RunTable
from uss_bench.launch.launchers import find_launcher, launcher_options
from uss_bench.runtime.tracking import find_tracker

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
    """Add what names a setup; the command receives `asked`, the fields of a `CellSpec` but the method."""

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        data = collect_data(values.pop("root"), values.pop("classes"), values.pop("data_pairs"))
        params = parse_pairs(values.pop("set_pairs"), "--set")
        training = parse_pairs(values.pop("training_pairs"), "--training")
        aux = parse_folders(values.pop("aux_pairs"), "--aux")
        asked = {name: values.pop(name) for name in ("dataset", "backbone", "protocol", *_NAMES)}
        if asked["weights"] is not None:
            if asked["backbone"] is None:
                raise UsageError("--weights needs --backbone, to know which network they belong to.")
            asked["weights"] = str(asked["weights"])
        return {"asked": {**asked, "data": data, "aux": aux, "params": params, "training": training}}

    return dataset_options(gathered(command, [*_networks_and_protocols(several=False), *_REQUEST], collect))


def experiment_options(*, seeds: int, several: bool = False) -> Callable[[C], C]:
    """Add what says what to run and how; the command receives `asked`, an `Experiment`.

    Args:
        seeds: the default number of seeds.
        several: whether several datasets, backbones and protocols may be named, or none.
    """

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        return {"asked": _experiment(values)}

    def add(command: C) -> C:
        options = [
            *_networks_and_protocols(several=several),
            *_REQUEST,
            *_seeds(seeds),
            *_EXECUTION,
        ]
        collected = gathered(command, options, collect)
        if not several:
            return dataset_options(collected)
        return click.option(
            "--dataset",
            multiple=True,
            metavar="NAME",
            help="Dataset (uss-bench ls datasets). May be repeated.",
        )(data_options(collected))

    return add


def _experiment(values: dict[str, Any]) -> Experiment:
    root, weights = values.pop("root"), values.pop("weights")
    table = RunTable(
        dataset=_names(values.pop("dataset")),
        root=None if root is None else str(root),
        classes=values.pop("classes"),
        data=parse_pairs(values.pop("data_pairs"), "--data"),
        aux=parse_folders(values.pop("aux_pairs"), "--aux"),
        backbone=_names(values.pop("backbone")),
        protocol=_names(values.pop("protocol")),
        weights=None if weights is None else str(weights),
        params=parse_pairs(values.pop("set_pairs"), "--set"),
        training=parse_pairs(values.pop("training_pairs"), "--training"),
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
    if values["track"]:
        find_tracker(values["track"])  # what is wrong ends here, before torch is imported
    dry_run = values.pop("dry_run")
    own = {name: values.pop(name) for name in _EXECUTION_FIELDS}
    plugins = [str(folder) for folder in values["plugin"]]  # `common` makes the registry of them
    execution = Execution(out=str(values.pop("out")), plugins=plugins, **own, **here())
    return Experiment(table=table, execution=execution, start=start, dry_run=dry_run)


def _names(given: str | Sequence[str] | None) -> list[str] | None:
    if not given:
        return None
    return [given] if isinstance(given, str) else list(given)


def _networks_and_protocols(*, several: bool) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--backbone",
            multiple=several,
            metavar="NAME",
            help="Backbone (uss-bench ls backbones), or any ViT in timm. Default: the dataset's."
            + " May be repeated." * several,
        ),
        click.option(
            "--protocol",
            multiple=several,
            metavar="NAME",
            help="Evaluation protocol (uss-bench ls protocols). Default: stego320@2; stego322@2 for patch 14."
            + " May be repeated; training is shared." * several,
        ),
    ]


def _seeds(number: int) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--seeds",
            default=number,
            show_default=True,
            type=click.IntRange(1, 10_000),
            help="Number of seeds, from --seed.",
        ),
        click.option("--seed", default=0, show_default=True, type=SEED, help="First seed."),
    ]


_NAMES = ("weights", "backbone_name", "positions", "preset", "limit", "feature_dtype")
_REQUEST = [
    aux_option(
        "Folder of maps, such as depth, that a method reads as channel NAME; one per image, of its size."
    ),
    click.option(
        "--weights",
        type=PATH,
        metavar="FILE",
        help="Weights of the backbone: .safetensors, or .pth, which is read safely.",
    ),
    click.option(
        "--backbone-name", metavar="NAME", help="Name of the backbone with these weights, in records."
    ),
    click.option(
        "--positions",
        type=click.Choice(["dino", "timm"]),
        help="How a ViT's position embedding is interpolated. Default: as its own code does it.",
    ),
    click.option(
        "--preset",
        metavar="NAME",
        help="Published parameters by name (uss-bench info METHOD). Default: those for the dataset, if any.",
    ),
    click.option(
        "--set",
        "set_pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="Parameter of the methods, or of one: METHOD.KEY=VALUE. May be repeated.",
    ),
    click.option(
        "--training",
        "training_pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="How training images are read: side, resize, fit, crops, … Default: as the method states.",
    ),
    click.option(
        "--limit", type=COUNT, metavar="N", help="Use at most N images of each split, evenly spaced."
    ),
    click.option(
        "--feature-dtype",
        type=click.Choice(["float16", "float32", "int8"]),
        default="float16",
        show_default=True,
        help="Precision of stored features; int8 has a scale per image and channel.",
    ),
]


def _order(context: click.Context, parameter: click.Parameter, given: bool) -> str:
    if not given:
        return ""
    from uss_bench.results.files import new_rerun_token

    return new_rerun_token()


_EXECUTION = [
    device_option,
    out_option("Results folder. Default: results."),
    click.option(
        "--force",
        is_flag=True,
        callback=_order,
        help="Run cells again that have a record, training included.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would run and its estimated cost; run nothing."),
    click.option(
        "--jobs",
        type=PROCESSES,
        metavar="N",
        help="Run N cells at a time, in processes of their own. Default: one, in this process.",
    ),
    click.option(
        "--launcher", metavar="NAME", help="Launcher of the processes: local, slurm, or an installed one."
    ),
    click.option(
        "--launcher-set",
        "launcher_pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the launcher. May be repeated.",
    ),
    click.option(
        "--launcher-config",
        type=FILE,
        metavar="FILE",
        help="TOML file with options of the launcher.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        help="How often to restart a cell whose process dies.",
    ),
    click.option(
        "--crf",
        "crf_engine",
        type=click.Choice(["lattice", "pydensecrf"]),
        default="lattice",
        show_default=True,
        help="Implementation of the CRF; both give equal results.",
    ),
    click.option(
        "--workers",
        type=PROCESSES,
        help="CRF threads per cell. Default: all cores, or a job's share.",
    ),
    click.option(
        "--threads",
        type=PROCESSES,
        help="Torch threads per cell; the last bits of results depend on it. Default: torch's choice.",
    ),
    click.option(
        "--snapshot-every",
        "snapshot_seconds",
        type=FiniteRange(0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Save training progress this often; a killed run loses no more.",
    ),
    click.option(
        "--store-budget",
        type=FiniteRange(0, 1e9),
        default=50.0,
        show_default=True,
        metavar="GB",
        help="Largest feature store on disk; features beyond it are recomputed as needed.",
    ),
    click.option(
        "--isolate",
        is_flag=True,
        help="Train and predict in a process that cannot reach the labels (docs/plugins.md).",
    ),
    click.option(
        "--track",
        default="",
        metavar="KIND:ARG",
        help="Send training curves to tensorboard:DIR, wandb:PROJECT, or an installed tracker.",
    ),
    click.option("--note", "notes", multiple=True, help="Note to keep in the record. May be repeated."),
    click.option(
        "--labels-used",
        multiple=True,
        metavar="WHAT",
        help="Declare that labels were used, and for what, such as tuning.",
    ),
]
_EXECUTION_FIELDS = (
    *("device", "store_budget", "crf_engine", "workers", "threads", "force"),
    *("snapshot_seconds", "track", "isolate"),
)
