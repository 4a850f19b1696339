"""``uss-bench verify``: read every file of a dataset."""

from __future__ import annotations

from pathlib import Path

import click

from uss_bench.cli.options import common, dataset_options
from uss_bench.experiment.command_line import collect_data
from uss_bench.plugins.registry import Registry


@click.command("verify", short_help="Read every file of a dataset and name the first wrong one.")
@dataset_options
@common
def command(
    registry: Registry, dataset: str, root: Path | None, classes: str | None, data_pairs: tuple[str, ...]
) -> None:
    """Read every image and label of a dataset; name the first wrong file and what to do about it."""
    from uss_bench.plugins.loading import load_dataset

    data, _ = load_dataset(registry, dataset, collect_data(root, classes, data_pairs))
    click.echo(data.verify())
