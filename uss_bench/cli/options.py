"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from uss_bench import progress
from uss_bench.errors import UsageError
from uss_bench.json_files import JSON_ERRORS
from uss_bench.registry import Registry

C = TypeVar("C", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of numbers, of which infinity and NaN are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


def common(command: C) -> C:
    """Add --plugin, --quiet and --debug; the command receives `registry`."""

    def with_registry(*args: Any, plugin: tuple[Path, ...], quiet: bool, debug: bool, **kwargs: Any) -> Any:
        progress.set_quiet(quiet)
        return command(*args, registry=Registry(plugin), **kwargs)

    with_registry.__name__ = command.__name__
    with_registry.__doc__ = command.__doc__
    decorated: Any = with_registry
    decorated.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option("--quiet", is_flag=True, help="No messages and bars, only results."),
        click.option(
            "--plugin",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="DIR",
            help="A plugin's folder, or a folder of such; also USS_BENCH_PLUGINS. May be repeated.",
        ),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def dataset_options(command: C) -> C:
    """Add --dataset and what configures it: `dataset`, and what `data_options` adds."""
    return click.option("--dataset", required=True, metavar="NAME", help="uss-bench ls datasets")(
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
            help="Any other option of the dataset (uss-bench info DATASET).",
        ),
        click.option("--classes", metavar="FILE", help="Classes file of a `folder` dataset, or its name."),
        click.option(
            "--root", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies."
        ),
    ):
        command = option(command)
    return command


def collect_data(root: Path | None, classes: str | None, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Join --root, --classes and --data into the dataset's options."""
    options = parse_pairs(pairs, "--data")
    if root is not None:
        options["root"] = str(root)
    if classes is not None:
        options["classes"] = classes
    return options


def parse_pairs(pairs: tuple[str, ...], flag: str) -> dict[str, Any]:
    """Read ``key=value`` pairs; a value is JSON where it can be, else a string."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} takes KEY=VALUE, not '{pair}'.")
        try:
            values[key.replace("-", "_")] = msgspec.json.decode(text)
        except (*JSON_ERRORS, UnicodeEncodeError):
            values[key.replace("-", "_")] = text
    return values


def records_option(command: C) -> C:
    """Add --records, where commands that are about records look; the command receives `folders`."""
    return click.option(
        "--records",
        "folders",
        type=click.Path(path_type=Path, file_okay=False),
        multiple=True,
        default=["results"],
        metavar="DIR",
        help="Where the records lie. May be repeated.  [default: results]",
    )(command)


def out_option(help: str) -> Callable[[C], C]:
    return click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), default="results", metavar="DIR", help=help
    )
