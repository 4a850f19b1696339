"""``uss-bench prepare``: put a dataset in place."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import common, dataset_options
from uss_bench.experiment.command_line import collect_data
from uss_bench.plugins.registry import Registry


@click.command("prepare", short_help="Put a dataset in place: download it, or say how to get it.")
@dataset_options
@common
def command(
    registry: Registry, dataset: str, root: Path | None, classes: str | None, data_pairs: tuple[str, ...]
) -> None:
    """Put a dataset in place under --root: download what may be downloaded, and explain the rest.

    Given again, it goes on where it was broken off.
    """
    from uss_bench.plugins.loading import load_dataset

    data, _ = load_dataset(registry, dataset, collect_data(root, classes, data_pairs))
    data.prepare()
    click.echo(f"{data.name} is in place. uss-bench verify reads every file of it.")
