"""``uss-bench eval``: score label maps that were made elsewhere."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path

import click

from uss_bench.cli.options import collect_data, common, dataset_options, out_option
from uss_bench.errors import UsageError
from uss_bench.registry import Registry
from uss_bench.specs import is_name


@click.command("eval", short_help="Score label maps that were made elsewhere.")
@click.argument("predictions", type=click.Path(path_type=Path, exists=True, file_okay=False))
@dataset_options
@click.option("--name", default="external", show_default=True, help="What the record calls the method.")
@click.option(
    "--protocol", default="stego320@1", show_default=True, help="Its geometry and scoring rules are used."
)
@click.option("--clusters", type=click.IntRange(1), help="K. Default: the largest index plus one.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="For the record.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N images, evenly spaced.")
@out_option("Where the record goes. Default: results.")
@common
def command(
    registry: Registry,
    predictions: Path,
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    name: str,
    protocol: str,
    clusters: int | None,
    seed: int,
    limit: int | None,
    out: Path,
) -> None:
    """Score the label maps in PREDICTIONS (ID.png or ID.npy, cluster indices) against a dataset."""
    if not is_name(name):
        raise UsageError(f"--name '{name}' will not do: use small letters, digits, '-', '_' and '.'.")

    from uss_bench import summary
    from uss_bench.external import PredictedMaps
    from uss_bench.panels import save_panel
    from uss_bench.protocol import get_protocol
    from uss_bench.provenance import environment
    from uss_bench.record_files import Arrays, pile, write_record
    from uss_bench.records import (
        SCHEMA,
        BackboneId,
        Cell,
        CheckpointResult,
        ClassRow,
        DatasetId,
        MethodId,
        RunRecord,
    )
    from uss_bench.runner import score_row
    from uss_bench.scoring import score_under
    from uss_bench.setup import data_fingerprint, load_dataset
    from uss_bench.subset import limited, limited_labels

    rules = get_protocol(protocol)
    data, _ = load_dataset(registry, dataset, collect_data(root, classes, data_pairs))
    # Unused by the scores, and part of what runs in the same table were trained on.
    train_images = limited(data.images(data.train_split), limit)
    images = limited(data.images(data.test_split), limit)
    whole = data.labels(data.test_split)
    if whole is None:
        raise UsageError(f"Dataset '{data.name}' has no labels to score against.")
    labels = limited_labels(whole, limit)
    maps = PredictedMaps(predictions, images, labels, rules)
    counts = maps.count(clusters, len(data.classes))
    row = score_row(score_under(counts, rules))
    cell = Cell(
        method=MethodId(name=name, params={}, code=maps.digest()[:12]),
        dataset=DatasetId(
            name=data.name,
            fingerprint=data_fingerprint(data, train_images, images, labels),
            train_split=data.train_split,
            test_split=data.test_split,
            limit=limit,
        ),
        backbone=BackboneId(name="none", sha256="", feature_dtype="float32"),
        protocol=rules.id,
        protocol_hash=rules.hash,
        alpha=rules.alpha,
        seed=seed,
    )
    record = RunRecord(
        schema=SCHEMA,
        id=cell.id,
        status="done",
        cell=cell,
        protocol=rules,
        classes=[ClassRow(name=one.name, colour=one.colour) for one in data.classes],
        clusters=counts.shape[1],
        images=len(images),
        last=CheckpointResult(step=None, raw=row, crf=None),
        environment=environment("cpu"),
        command=shlex.join(["uss-bench", *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=["label maps made elsewhere"],
    )
    kept = sorted(maps.kept)
    arrays = Arrays(
        image_ids=list(images.ids),
        counts={("last", "raw"): counts},
        map_ids=[images.ids[index] for index in kept],
        maps={("last", "raw"): pile([maps.kept[index] for index in kept])},
    )
    path, record = write_record(out, record, arrays, None)
    save_panel(path, images, labels)
    click.echo(summary.run_summary([record]))
    click.echo(f"record  {path}\npicture {path.with_suffix('.png')}")
