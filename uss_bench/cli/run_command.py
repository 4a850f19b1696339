"""``uss-bench run``: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from uss_bench.cli.options import collect_data, common, dataset_options, out_option, parse_pairs
from uss_bench.errors import UsageError
from uss_bench.registry import Registry

EPILOG = """\b
Examples:
  uss-bench run --method smooseg --dataset toy3 --seeds 3
  uss-bench run --method dino --dataset folder --root camvid --classes camvid \\
                --backbone vit_small_patch14_dinov2 --weights vit.safetensors
  uss-bench run --method smooseg --dataset toy3 --set steps=1000 --set tau=0.05
  uss-bench run --method dino --dataset toy3 --protocol 'stego320@1[flip=false]'
"""


@click.command("run", epilog=EPILOG, short_help="Train, predict, refine, match, score and record.")
@click.option("--method", required=True, metavar="NAME", help="uss-bench ls methods")
@dataset_options
@click.option(
    "--backbone", metavar="NAME", help="uss-bench ls backbones, or any timm ViT. Default: the dataset's."
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights: .safetensors, or .pth read safely.",
)
@click.option("--backbone-name", metavar="NAME", help="What records call this backbone with these weights.")
@click.option(
    "--protocol", metavar="NAME", help="uss-bench ls protocols. Default: stego320@1, or stego322@1."
)
@click.option("--preset", metavar="NAME", help="Published parameters. Default: those that fit the dataset.")
@click.option("--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the method.")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(1), help="Number of seeds, from --seed."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The first seed.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="At most N images of each split, evenly spaced."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@out_option("Where records go. Default: results.")
@click.option("--force", is_flag=True, help="Run again what has a record.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option(
    "--crf",
    "crf_engine",
    type=click.Choice(["lattice", "pydensecrf"]),
    default="lattice",
    show_default=True,
    help="CRF engine; the two are proved equal.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes for the CRF. Default: all cores.")
@click.option(
    "--feature-dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="How features are stored.",
)
@click.option(
    "--store-budget",
    type=float,
    default=50.0,
    show_default=True,
    metavar="GB",
    help="Features beyond this are streamed from the backbone.",
)
@click.option("--note", "notes", multiple=True, help="A remark for the record. May be repeated.")
@click.option("--labels-used", multiple=True, metavar="WHAT", help="Own up to labels used, e.g. 'tuning'.")
@common
def command(
    registry: Registry,
    method: str,
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    backbone: str | None,
    weights: Path | None,
    backbone_name: str | None,
    protocol: str | None,
    preset: str | None,
    set_pairs: tuple[str, ...],
    seeds: int,
    seed: int,
    limit: int | None,
    device: str,
    out: Path,
    force: bool,
    dry_run: bool,
    crf_engine: Any,
    workers: int | None,
    feature_dtype: Any,
    store_budget: float,
    notes: tuple[str, ...],
    labels_used: tuple[str, ...],
) -> None:
    """Train a method on unlabelled images, predict, refine, match, score and record.

    A run whose record exists is not repeated, so an interrupted command can simply be given again.
    """
    params = parse_pairs(set_pairs, "--set")
    data = collect_data(root, classes, data_pairs)
    # Wrong names end here, before torch is imported.
    registry.method(method), registry.dataset(dataset)

    from uss_bench import progress, summary
    from uss_bench.crf import CrfPool
    from uss_bench.device import pick_device
    from uss_bench.errors import UssBenchError
    from uss_bench.features import FeatureStore
    from uss_bench.panels import save_panel
    from uss_bench.paths import cache_root
    from uss_bench.records import read_record, record_path
    from uss_bench.runner import Outcome, run_cell
    from uss_bench.setup import Request, resolve

    if weights is not None and backbone is None:
        raise UsageError("--weights needs --backbone, to know which network they belong to.")
    setup = resolve(
        Request(
            method=method,
            dataset=dataset,
            dataset_options=data,
            backbone=backbone,
            weights=weights,
            backbone_name=backbone_name,
            protocol=protocol,
            preset=preset,
            params=params,
            limit=limit,
            feature_dtype=feature_dtype,
        ),
        registry,
    )
    cells = {number: setup.cell(number) for number in range(seed, seed + seeds)}
    done = {number for number, cell in cells.items() if record_path(out, cell).exists() and not force}
    if dry_run:
        click.echo(summary.plan_table(cells.values(), out, {cells[number].id for number in done}))
        return

    summary.print_header(setup)
    outcomes: list[Outcome] = []
    failures: list[UssBenchError] = []
    torch_device = pick_device(device)
    store = FeatureStore(
        cache_root() / "features",
        setup.backbone.to(torch_device),
        positions=setup.protocol.positions,
        device=torch_device,
        dtype=feature_dtype,
        budget=int(store_budget * 1e9),
    )
    with CrfPool(setup.protocol.crf, engine=crf_engine, workers=workers, log=progress.log) as pool:
        for number, cell in cells.items():
            path = record_path(out, cell)
            if number in done:
                progress.log(f"seed {number}: done before, see {path}")
                outcomes.append(Outcome(path, read_record(path)))
                continue
            progress.log(f"seed {number}: {method} on {setup.dataset.name}")
            try:
                outcome = run_cell(
                    setup,
                    number,
                    store=store,
                    pool=pool,
                    out=out,
                    crf_engine=crf_engine,
                    command=shlex.join(["uss-bench", *sys.argv[1:]]),
                    notes=notes,
                    labels_used=labels_used,
                )
            except UssBenchError as error:
                progress.log(f"seed {number} failed: {error.what}")
                failures.append(error)
                continue
            save_panel(outcome.path, setup.test_images, setup.test_labels)
            outcomes.append(outcome)
    click.echo(summary.run_summary([outcome.record for outcome in outcomes]))
    for outcome in outcomes:
        click.echo(f"record  {outcome.path}\npicture {outcome.path.with_suffix('.png')}")
    if failures:
        raise failures[0]
