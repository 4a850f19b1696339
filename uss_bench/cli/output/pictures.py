"""``uss-bench plot panels`` and ``plot embedding``: figures that open the dataset itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import PATH, common, dataset_options, device_option
from uss_bench.cli.plot_options import selection, write
from uss_bench.experiment.command_line import collect_data
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.results.collection import Entry
    from uss_bench.results.record import Refinement
    from uss_bench.results.selection import Query

_seed = click.option("--seed", type=click.IntRange(0), help="Seed to draw. Default: each method's first.")


@click.command("panels", short_help="Draw predictions of several methods on the same images.")
@common
@click.option(
    "--count", type=click.IntRange(1, 12), default=8, show_default=True, help="Draw at most this many images."
)
@click.option("--maps", type=click.Choice(["raw", "crf", "both"]), default="crf", show_default=True)
@_seed
@selection(opened=True)
@dataset_options
def panels(
    registry: Registry,
    query: Query,
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    seed: int | None,
    maps: str,
    count: int,
    out: Path,
) -> None:
    """Draw predictions of several methods on the same images, below the images and their ground truth.

    The images are the first of those that every record keeps the maps of; none is picked by hand.
    """
    data = collect_data(root, classes, data_pairs)
    registry.dataset(dataset)

    from uss_bench.data.subset import limited, limited_labels
    from uss_bench.plots import panels as plot
    from uss_bench.plugins.loading import load_dataset

    opened, _ = load_dataset(registry, dataset, data)
    shown = _entries(query, opened.name, seed)
    limit = shown[0][1].record.cell.dataset.limit
    labels = opened.labels(opened.test_split)
    refinements: dict[str, tuple[Refinement, ...]] = {
        "raw": ("raw",),
        "crf": ("crf",),
        "both": ("raw", "crf"),
    }
    found = plot.grid(
        shown,
        limited(opened.images(opened.test_split), limit),
        limited_labels(labels, limit) if labels is not None else None,
        refinements=refinements[maps],
        count=count,
    )
    write(plot.draw(found), out, plot.caption(shown))


@click.command("embedding", short_help="Draw a t-SNE of the codes of test patches.")
@common
@device_option
@click.option(
    "--points",
    type=click.IntRange(100),
    default=2000,
    show_default=True,
    help="Draw at most this many patches.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Take patches from this many images.",
)
@_seed
@click.option("--weights", type=PATH, metavar="FILE", help="Weights file of the records' backbone.")
@click.option("--backbone", metavar="NAME", help="Backbone, if the record's name does not lead to it.")
@selection(opened=True)
@dataset_options
def embedding(
    registry: Registry,
    query: Query,
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    backbone: str | None,
    weights: Path | None,
    seed: int | None,
    images: int,
    points: int,
    device: str,
    out: Path,
) -> None:
    """Draw a t-SNE of the codes of test patches, by true class and by cluster; one column per method.

    The trained state must lie beside each record, and scikit-learn must be installed.
    """
    registry.dataset(dataset)

    from uss_bench.experiment.recipe import find_recipe
    from uss_bench.experiment.restoring import restore
    from uss_bench.plots import colors
    from uss_bench.plots import embedding as plot
    from uss_bench.plugins.loading import load_dataset
    from uss_bench.runtime.device import pick_device

    plot.require_sklearn()
    torch_device = pick_device(device)
    given = {"dataset": dataset, "root": root, "classes": classes, "data_pairs": data_pairs}
    opened, _ = load_dataset(registry, dataset, collect_data(root, classes, data_pairs))
    clouds = []
    shown = _entries(query, opened.name, seed)
    for name, entry in shown:
        recipe = find_recipe(entry.record, **given, backbone=backbone, weights=weights)
        restored = restore(entry.path, entry.record, recipe.setup(registry), registry, torch_device)
        codes = plot.patch_codes(restored, images=images, points=points, device=torch_device)
        clouds.append(plot.cloud(name, entry, codes))
    legend = colors.legend(entry for _, entry in shown)
    write(plot.draw(clouds, legend), out, plot.caption(shown, clouds))


def _entries(query: Query, dataset: str, seed: int | None) -> list[tuple[str, Entry]]:
    """Return what the figure calls each chosen record, and the record: one of every configuration."""
    from uss_bench.results.selection import names, of_seed, one_table, select

    configurations = select(dataclasses.replace(query, datasets=[dataset], counts=True))
    one_table(configurations)
    return list(zip(names(configurations), of_seed(configurations, seed), strict=True))
