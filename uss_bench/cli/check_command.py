"""``uss-bench check``: whether a plugin keeps its contract, rung by rung."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import collect_data, common, parse_pairs
from uss_bench.errors import ContractError
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.kit import Finding

EPILOG = """\b
Examples:
  uss-bench check method my-method --plugin my_method
  uss-bench check dataset harbour --plugin harbour --root DATA
"""

_MARGIN = " " * 24
_WIDTH = 84
_COLOURS = {"ok": "green", "note": "cyan", "skipped": "yellow", "failed": "red"}


@click.group("check", epilog=EPILOG, short_help="Check a plugin against its contract.")
def command() -> None:
    """Check a method or a dataset against its contract, one line per rung: ok, note, skipped or failed."""


@command.command("method")
@click.argument("name")
@click.option("--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the method.")
@click.option(
    "--backbone", metavar="NAME", help="Where facets come from. Default: a small ViT with random weights."
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of --backbone.")
@common
def method(
    registry: Registry, name: str, set_pairs: tuple[str, ...], backbone: str | None, weights: Path | None
) -> None:
    """Train and predict with a method on a tiny drawn problem, in every way that a run may ask for.

    Parameters called steps and checkpoint_every are made small, unless --set says otherwise. Exits with 1
    when a rung fails.
    """
    from uss_bench.kit import climb_method

    params = parse_pairs(set_pairs, "--set")
    _tell(
        f"method '{name}'",
        climb_method(name, registry, params=params, backbone=backbone, weights=weights),
    )


@command.command("dataset")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies.")
@click.option("--classes", metavar="FILE", help="Classes file of a `folder` dataset, or its name.")
@click.option(
    "--data",
    "data_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the dataset (uss-bench info NAME).",
)
@common
def dataset(
    registry: Registry, name: str, root: Path | None, classes: str | None, data_pairs: tuple[str, ...]
) -> None:
    """Open a dataset twice, read some images and labels of the splits in use, and verify it.

    Exits with 1 when a rung fails.
    """
    from uss_bench.kit import climb_dataset

    _tell(f"dataset '{name}'", climb_dataset(name, registry, collect_data(root, classes, data_pairs)))


def _tell(what: str, findings: Iterator[Finding]) -> None:
    """Print findings as they come.

    Raises:
        ContractError: when a rung failed.
    """
    from uss_bench import progress

    progress.set_quiet(True)  # the many small trainings have nothing to say for themselves
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for finding in findings:
        counts[finding.status] += 1
        wrong += [finding.rung] if finding.status == "failed" else []
        status = click.style(f"{finding.status:8}", fg=_COLOURS[finding.status])
        click.echo(_wrapped(f"{status} {finding.rung:14} ", finding.text))
        if finding.todo:
            click.echo(_wrapped(_MARGIN, f"→ {finding.todo}"))
    click.echo(f"\n{what}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if wrong:
        raise ContractError(
            f"The {what} does not keep its contract: {', '.join(wrong)}.",
            hint="The arrows above say what to do; docs/plugins.md has the contract.",
        )


def _wrapped(lead: str, text: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH) or [""]
    return lead + f"\n{_MARGIN}".join(lines)
