"""``uss-bench new``: a plugin's folder to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from uss_bench.cli.options import common
from uss_bench.registry import Registry

EPILOG = """\b
Examples:
  uss-bench new method my-method
  uss-bench new dataset harbour --out plugins
"""


@click.command("new", epilog=EPILOG, short_help="Write a plugin's folder to start from.")
@click.argument("what", type=click.Choice(["method", "dataset"]))
@click.argument("name")
@click.option(
    "--out",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    metavar="DIR",
    help="Where the folder goes. Default: here.",
)
@common
def command(registry: Registry, what: Any, name: str, parent: Path) -> None:
    """Write the folder of a new method or dataset: spec.toml, one file of code, and its test.

    It runs as it is: a small method that learns without labels, or an adapter over a few drawn scenes. Change
    it piece by piece, and let `uss-bench check` and its test say what still holds.
    """
    from uss_bench.kit.scaffold import write_plugin

    folder, spec, code, test = (
        Path(os.path.relpath(path)) for path in write_plugin(what, name, parent, registry)
    )
    run = f"--method {name} --dataset toy3" if what == "method" else f"--method dino --dataset {name}"
    rows = [(spec, "what it is, and what `uss-bench info` shows"), (code, f"the {what}"), (test, "its test")]
    click.echo(
        f"{tabulate(rows, tablefmt='plain')}\n"
        f"\n"
        f"It runs as it is:\n"
        f"  uss-bench run --plugin {folder} {run}\n"
        f"  uss-bench check {what} {name} --plugin {folder}\n"
        f"  python -m pytest {folder}"
    )
