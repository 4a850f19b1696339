"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Registry
from uss_bench.runtime import progress
from uss_bench.runtime.limits import LARGEST_COUNT, LARGEST_SEED, MOST_PROCESSES

C = TypeVar("C", bound=Callable[..., Any])

SEED = click.IntRange(0, LARGEST_SEED)
COUNT = click.IntRange(1, LARGEST_COUNT)
PROCESSES = click.IntRange(1, MOST_PROCESSES)
PATH = click.Path(path_type=Path)
DIR = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
workers_option = click.option("--workers", type=PROCESSES, help="CRF threads. Default: all cores.")


class FiniteRange(click.FloatRange):
    """A range of numbers, without infinity and NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return super().convert(value, param, ctx)


def gathered(
    command: C,
    options: Sequence[Callable[[Any], Any]],
    collect: Callable[[dict[str, Any]], dict[str, Any]],
) -> C:
    """Add click options; `collect` takes their values out of the command's arguments and returns others."""

    def collected(*args: Any, **kwargs: Any) -> Any:
        new = collect(kwargs)
        return command(*args, **new, **kwargs)

    collected.__name__ = command.__name__
    collected.__doc__ = command.__doc__
    decorated: Any = collected
    decorated.__click_params__ = getattr(command, "__click_params__", [])
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def common(command: C) -> C:
    """Add --plugin, --quiet and --debug; the command receives `registry`."""

    def collect(values: dict[str, Any]) -> dict[str, Any]:
        progress.set_quiet(values.pop("quiet"))
        del values["debug"]  # the entry point looks for it itself
        return {"registry": Registry(values.pop("plugin"))}

    options = [
        click.option(
            "--plugin",
            type=PATH,
            multiple=True,
            metavar="DIR",
            help="Folder of a plugin, or of several plugins; also USS_BENCH_PLUGINS. May be repeated.",
        ),
        click.option("--quiet", is_flag=True, help="Print results only: no messages, no progress bars."),
        click.option("--debug", is_flag=True, help="Show the traceback when an error occurs."),
    ]
    return gathered(command, options, collect)


def dataset_options(command: C) -> C:
    """Add --dataset and what configures it: `dataset`, and what `data_options` adds."""
    return click.option("--dataset", required=True, metavar="NAME", help="Dataset (uss-bench ls datasets).")(
        data_options(command)
    )


def data_options(command: C) -> C:
    """Add what configures a dataset: the command receives what `collect_data` joins."""
    for option in (
        click.option(
            "--data",
            "data_pairs",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any other option of the dataset (uss-bench info DATASET). May be repeated.",
        ),
        click.option(
            "--classes",
            metavar="FILE",
            help="Classes of a `folder` dataset: a file, or a known name such as camvid.",
        ),
        click.option("--root", type=PATH, metavar="DIR", help="The dataset's folder."),
    ):
        command = option(command)
    return command


def aux_option(help: str) -> Callable[[C], C]:
    """Return the option --aux; the command receives `aux_pairs` for `parse_folders`."""
    return click.option("--aux", "aux_pairs", multiple=True, metavar="NAME=DIR", help=help)


def warn_skipped(broken: Iterable[str]) -> None:
    """Say on standard error which records are left out, and why."""
    for message in broken:
        click.echo(f"{click.style('skipped', fg='yellow')}  {message}", err=True)


def records_option(command: C) -> C:
    """Add --records, where commands that are about records look; the command receives `folders`."""
    return click.option(
        "--records",
        "folders",
        type=DIR,
        multiple=True,
        default=["results"],
        metavar="DIR",
        help="Folder of records. May be repeated.  [default: results]",
    )(command)


label_option = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="METHOD=NAME",
    help="Display name of a method or label. May be repeated. Default: its title.",
)


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Read the values of --label: names by methods, or by whole labels of configurations."""
    names = {}
    for pair in pairs:
        method, equals, name = pair.rpartition("=")
        if not equals or not method or not name:
            raise UsageError(f"--label takes METHOD=NAME, not '{pair}'.")
        names[method] = name
    return names


def out_option(help: str) -> Callable[[C], C]:
    return click.option("--out", type=DIR, default="results", metavar="DIR", help=help)
