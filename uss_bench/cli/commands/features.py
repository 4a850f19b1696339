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
@click.option("--dataset", metavar="NAME", help="Dataset (uss-bench ls datasets).")
@click.option(
    "--plan",
    type=PATH,
    metavar="FILE",
    help="Measure what this TOML file describes, instead of options other than --out.",
)
@data_options
@click.option("--weights", type=PATH, metavar="FILE", help="Weights file; with one backbone only.")
@click.option("--backbone-name", metavar="NAME", help="Name of the backbone with these weights, in records.")
@click.option(
    "--protocol",
    metavar="NAME",
    help="Evaluation protocol (uss-bench ls protocols). Default: stego320@2; stego322@2 for patch 14.",
)
@click.option(
    "--training",
    "training_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="How training images are read, as in uss-bench run.",
)
@click.option("--limit", type=COUNT, metavar="N", help="Use at most N images of each split.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(MEASURES),
    help="Measure only this. May be repeated. Default: all.",
)
@click.option(
    "--clusters", metavar="K,K,…", help="Cluster counts of over-clustering. Default: C, 2C, 100, 300, 500."
)
@click.option(
    "--pca-dims", metavar="k,k,…", default="64", show_default=True, help="Dimensions that PCA keeps."
)
@click.option(
    "--low-shot", metavar="n,n,…", help="Also train on 1/n of the labeled images; published: 8,64,128."
)
@click.option("--blocks", metavar="i,i,…", help="Measure the tokens of these blocks, or of 'all'.")
@_numbers
@click.option("--seeds", default=1, show_default=True, type=COUNT, help="Number of seeds, from --seed.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="First seed.")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.option("--force", is_flag=True, help="Measure again even if there is a record.")
@click.option(
    "--taxonomy", metavar="NAME", help="Score under other classes of the dataset (uss-bench info DATASET)."
)
@device_option
@out_option("Results folder. Default: results.")
@common
def command(
    registry: Registry,
    backbones: tuple[str, ...],
    dataset: str | None,
    plan: Path | None,
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
    force: bool,
    taxonomy: str | None,
    device: str,
    out: Path,
    **numbers: int,
) -> None:
    """Measure the frozen features of each BACKBONE on one dataset; its default backbone where none is named.

    K-means with K = C and Hungarian matching, over-clustering, k-means on principal components and on
    features without what position explains see no label before matching. In-context retrieval and the linear
    probe learn from the labels of the training split; they stand apart and are never ranked with the others.

    All measures share one extraction. Each backbone and seed leaves a file NAME.features.json, of which
    board build makes a page of its own; what has one is not measured again.
    """
    import msgspec

    from uss_bench.cli.output.features import MeasuredFeatures, as_csv, as_text
    from uss_bench.evaluation.taxonomies import find_taxonomy
    from uss_bench.experiment.backbone_features import measure_backbones
    from uss_bench.experiment.feature_plan import measure_plan
    from uss_bench.results.feature_counts import read_counts
    from uss_bench.runtime.device import pick_device

    owner, merged = ("", None) if taxonomy is None else find_taxonomy(taxonomy, registry)
    if form == "json" and merged:
        raise UsageError("--taxonomy is for tables: a record states the classes that it was measured with.")
    if merged and dataset not in (None, owner):
        raise UsageError(
            f"'{taxonomy}' merges classes of '{owner}', and counts of '{dataset}' are no counts of it."
        )
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
    if dataset is not None and plan is None:
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
        measured = measure_backbones(
            asked,
            backbones or (None,),
            settings,
            registry,
            blocks=chosen,
            seeds=range(seed, seed + seeds),
            device=pick_device(device),
            out=out,
            command=shlex.join(["uss-bench", *sys.argv[1:]]),
            force=force,
        )
    elif plan is not None and dataset is None and not backbones:
        measured = measure_plan(plan, registry, device=pick_device(device), out=out, force=force)
    else:
        raise UsageError(
            "Nothing says what to measure, or two things do.",
            hint="Give --dataset NAME, or --plan FILE alone.",
        )
    found = list(measured)
    records = [record for _, record in found]
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(records), indent=1).decode())
        return
    counted = [MeasuredFeatures(record, read_counts(path, len(record.rows))) for path, record in found]
    if merged and any(one.counts is None for one in counted):
        raise UsageError(
            "A record is older than counts of features, which --taxonomy needs.", hint="Add --force."
        )
    if form == "csv":
        click.echo(as_csv(counted, merged), nl=False)
    else:
        click.echo(as_text(counted, merged))
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
