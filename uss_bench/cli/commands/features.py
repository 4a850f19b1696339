"""``uss-bench features``: measure a backbone's frozen features, as both communities do."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click

from uss_bench.cli.options import (
    COUNT,
    PATH,
    SEED,
    common,
    data_options,
    device_option,
    out_option,
)
from uss_bench.errors import UsageError
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.command_line import collect_data, parse_pairs
from uss_bench.plugins.registry import Registry
from uss_bench.results.feature_record import MEASURES, FeatureSettings

EPILOG = """\b
Examples:
  uss-bench features patchstats tinyvit --dataset toy27
  uss-bench features tinyvit --dataset toy27 --measure kmeans --blocks all
  uss-bench features tinyvit --dataset toy27 --low-shot 8,64,128 --seeds 3 --format csv
"""

_NUMBERS = (
    ("kmeans-steps", "Mini-batch steps of each k-means."),
    ("neighbors", "Patches that retrieval compares with."),
    ("bank-size", "Patches in retrieval's memory bank."),
    ("probe-steps", "Steps of the linear probe."),
    ("draws", "Draws of images for each share of --low-shot."),
)


def _numbers(command: Any) -> Any:
    defaults = FeatureSettings()
    for flag, text in reversed(_NUMBERS):
        default = getattr(defaults, flag.replace("-", "_"))
        command = click.option(f"--{flag}", default=default, show_default=True, type=COUNT, help=text)(
            command
        )
    return command


@click.command("features", epilog=EPILOG, short_help="Measure the features of backbones.")
@click.argument("backbones", nargs=-1, metavar="BACKBONE...")
@click.option("--dataset", required=True, metavar="NAME", help="uss-bench ls datasets")
@data_options
@click.option("--weights", type=PATH, metavar="FILE", help="Weights, of one backbone.")
@click.option("--backbone-name", metavar="NAME", help="What to call the backbone with these weights.")
@click.option("--protocol", metavar="NAME", help="What is scored. Default: stego320@2, or stego322@2.")
@click.option(
    "--training",
    "training_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the training images, as of uss-bench run.",
)
@click.option("--limit", type=COUNT, metavar="N", help="At most N images of each split.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(MEASURES),
    help="What is measured. May be repeated. Default: all.",
)
@click.option("--clusters", metavar="K,K,…", help="Of over-clustering. Default: C, 2C, 100, 300, 500.")
@click.option("--pca-dims", metavar="k,k,…", default="64", show_default=True, help="What pca keeps.")
@click.option(
    "--low-shot", metavar="n,n,…", help="Also learn from 1/n of the labeled images; published: 8,64,128."
)
@click.option("--blocks", metavar="i,i,…", help="Measure the tokens of these blocks, or of 'all'.")
@_numbers
@click.option("--seeds", default=1, show_default=True, type=COUNT, help="How many seeds.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The first seed.")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@device_option
@out_option("Where the measures are written. Default: results.")
@common
def command(
    registry: Registry,
    backbones: tuple[str, ...],
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    weights: Path | None,
    backbone_name: str | None,
    protocol: str | None,
    training_pairs: tuple[str, ...],
    limit: int | None,
    measures: tuple[str, ...],
    clusters: str | None,
    pca_dims: str,
    low_shot: str | None,
    blocks: str | None,
    seeds: int,
    seed: int,
    form: Literal["table", "csv", "json"],
    device: str,
    out: Path,
    **numbers: int,
) -> None:
    """Measure the frozen features of each BACKBONE on one data set; its default backbone where none is named.

    K-means with K = C and Hungarian matching, over-clustering, k-means on principal components and on
    features without what position explains see no label before matching. In-context retrieval and the linear
    probe learn from the labels of the training split; they stand apart and are never ranked with the others.

    All measures share one extraction. Each backbone and seed leaves a file NAME.features.json, which no board
    reads; what has one is not measured again.
    """
    if weights is not None and len(backbones) != 1:
        raise UsageError("--weights belong to one backbone; name it, and no other.")
    settings = FeatureSettings(
        measures=tuple(one for one in MEASURES if not measures or one in measures),
        clusters=_listed(clusters, "--clusters", 1),
        pca_dims=_listed(pca_dims, "--pca-dims", 1),
        low_shot=_listed(low_shot, "--low-shot", 2),
        **numbers,
    )
    chosen = None if blocks is None else () if blocks == "all" else _listed(blocks, "--blocks", None)
    asked = CellSpec(
        method="dino",
        dataset=dataset,
        data=collect_data(root, classes, data_pairs),
        weights=None if weights is None else str(weights),
        backbone_name=backbone_name,
        protocol=protocol,
        training=parse_pairs(training_pairs, "--training"),
        limit=limit,
    )
    import msgspec

    from uss_bench.cli.output.features import as_csv, as_text
    from uss_bench.experiment.backbone_features import measure_backbones
    from uss_bench.runtime.device import pick_device

    found = list(
        measure_backbones(
            asked,
            backbones or (None,),
            settings,
            registry,
            blocks=chosen,
            seeds=range(seed, seed + seeds),
            device=pick_device(device),
            out=out,
            command=shlex.join(["uss-bench", *sys.argv[1:]]),
        )
    )
    records = [record for _, record in found]
    if form == "csv":
        click.echo(as_csv(records), nl=False)
    elif form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(records), indent=1).decode())
    else:
        click.echo(as_text(records))
        click.echo("\n" + "\n".join(f"features  {path}" for path, _ in found))


def _listed(text: str | None, flag: str, least: int | None) -> tuple[int, ...]:
    """Read numbers that commas part."""
    try:
        numbers = tuple(int(part) for part in (text or "").split(",") if part)
    except ValueError:
        raise UsageError(f"{flag} takes numbers with commas between them, not '{text}'.") from None
    if least is not None and any(number < least for number in numbers):
        raise UsageError(f"{flag} takes numbers from {least} on, not '{text}'.")
    return numbers
