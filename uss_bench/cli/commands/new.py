"""``uss-bench new``: a plugin's folder to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from uss_bench.cli.options import DIR, common
from uss_bench.cli.output.tables import table
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench new method my-method
  uss-bench new dataset harbour --out plugins
  uss-bench new backbone my-vit
"""


@click.command("new", epilog=EPILOG, short_help="Write a plugin's folder to start from.")
@click.argument("what", type=click.Choice(["method", "dataset", "backbone"]))
@click.argument("name")
@click.option(
    "--out",
    "parent",
    type=DIR,
    default=".",
    metavar="DIR",
    help="Parent of the new folder. Default: the current folder.",
)
@common
def command(registry: Registry, what: Any, name: str, parent: Path) -> None:
    """Write the folder of a new method, dataset or backbone: spec.toml, one file of code, and its test.

    It runs as it is: a small method that learns without labels, an adapter over a few drawn scenes, or a
    network of random weights. Change it piece by piece; `uss-bench check` and its test show what still holds.
    """
    from uss_bench.kit.scaffold import write_plugin

    folder, spec, code, test = (
        Path(os.path.relpath(path)) for path in write_plugin(what, name, parent, registry)
    )
    used = {"method": "dino", "dataset": "toy3"} | {what: name}
    run = " ".join(f"--{kind} {chosen}" for kind, chosen in used.items())
    rows = [(spec, "what it is, and what `uss-bench info` shows"), (code, f"the {what}"), (test, "its test")]
    click.echo(
        f"{table(rows)}\n"
        f"\n"
        f"It runs as it is:\n"
        f"  uss-bench run --plugin {folder} {run}\n"
        f"  uss-bench check {what} {name} --plugin {folder}\n"
        f"  python -m pytest {folder}"
    )
