"""``uss-bench eval``: score predictions that were made elsewhere."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, dataset_options, out_option, workers_option
from uss_bench.errors import UsageError
from uss_bench.experiment.command_line import collect_data
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import INGREDIENTS, NO_BACKBONE, Ingredient, is_name

if TYPE_CHECKING:
    from uss_bench.evaluation.external import ScoreKind

EPILOG = """\b
Examples:
  uss-bench eval maps --dataset toy3
  uss-bench eval scores --dataset cityscapes27 --root cityscapes --name mine --backbone dino_vitb8 \\
                 --title 'My method' --paper 'Doe et al., CVPR 2026' --ingredient text
"""


@click.command("eval", epilog=EPILOG, short_help="Score predictions that were made elsewhere.")
@click.argument("predictions", type=click.Path(path_type=Path, exists=True, file_okay=False))
@dataset_options
@click.option("--name", default="external", show_default=True, help="Name of the method, in records.")
@click.option("--title", default="", metavar="TEXT", help="Full name of the method.")
@click.option("--paper", default="", metavar="TEXT", help="Address of the paper.")
@click.option(
    "--ingredient",
    "ingredients",
    type=click.Choice(list(INGREDIENTS)),
    multiple=True,
    help="Ingredient other than unlabeled pixels, such as depth-supervision. May be repeated.",
)
@click.option(
    "--labels-used",
    multiple=True,
    metavar="WHAT",
    help="Declare that labels were used, and for what, such as tuning; such rows are not ranked.",
)
@click.option(
    "--backbone",
    default=NO_BACKBONE,
    show_default=True,
    metavar="NAME",
    help="Backbone whose tables the row belongs to.",
)
@click.option(
    "--patch",
    type=click.IntRange(1),
    help="Patch size of the backbone, which chooses the protocol. Default: the backbone's own.",
)
@click.option(
    "--protocol",
    metavar="NAME",
    help="Protocol, for geometry, CRF and scoring. Default: the one for the patch size, or stego320@2.",
)
@click.option(
    "--train-predictions",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Predictions for the training images, whose labels name the clusters under match_on=train.",
)
@click.option(
    "--clusters", type=click.IntRange(1), help="Number of clusters K. Default: as in the predictions."
)
@click.option(
    "--scores",
    type=click.Choice(["logits", "probabilities"]),
    default="logits",
    show_default=True,
    help="What the arrays of scores hold.",
)
@click.option("--alpha", type=float, help="Scale of logits before the softmax. Default: the protocol's.")
@workers_option
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the method's run."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use at most N images, evenly spaced.")
@out_option("Results folder. Default: results.")
@common
def command(
    registry: Registry,
    predictions: Path,
    dataset: str,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    name: str,
    title: str,
    paper: str,
    ingredients: tuple[Ingredient, ...],
    labels_used: tuple[str, ...],
    backbone: str,
    patch: int | None,
    protocol: str | None,
    train_predictions: Path | None,
    clusters: int | None,
    scores: ScoreKind,
    alpha: float | None,
    workers: int | None,
    seed: int,
    limit: int | None,
    out: Path,
) -> None:
    """Score the PREDICTIONS of a method for the test images of a dataset, a file per image.

    ID.png or an integer ID.npy (H, W) is a label map of cluster indices. A floating-point ID.npy (K, H, W) is
    a score array, and is refined by the CRF as well. Files have the size of their image, or that of the
    protocol's square. The row stands in the tables of the same data, protocol and backbone, as external.
    """
    if not is_name(name):
        raise UsageError(f"--name '{name}' is not valid: use small letters, digits, '-', '_' and '.'.")
    if name in registry.names("methods"):
        raise UsageError(
            f"'{name}' is a method of uss-bench, whose rows are of runs made by it.",
            hint=f"Choose another name for predictions made elsewhere, such as --name {name}-released.",
        )

    from uss_bench.cli.output import summary
    from uss_bench.crf import CrfPool
    from uss_bench.data.split_check import check_split
    from uss_bench.evaluation.external import ExternalPredictions
    from uss_bench.evaluation.scoring import match_all, score_row, score_under
    from uss_bench.experiment.cells import CellSpec
    from uss_bench.experiment.data_in_use import load_data, training_labels
    from uss_bench.plots.panels import save_panel
    from uss_bench.protocol import TrainingGeometry, default_protocol, get_protocol
    from uss_bench.results import record as records
    from uss_bench.results.arrays import Arrays, stack_maps
    from uss_bench.results.files import write_record
    from uss_bench.results.provenance import environment
    from uss_bench.runtime import progress

    card = registry.backbone(backbone)[0] if backbone in registry.names("backbones") else None
    patch = patch or (card.patch if card else 0)
    rules = get_protocol(protocol or default_protocol(patch or 16))
    on_train = rules.match_on == "train"
    if on_train and train_predictions is None:
        raise UsageError(
            f"Protocol {rules.id} matches clusters on the training split, and these are of the test split.",
            hint="Give predictions for the training images too: --train-predictions DIR.",
        )
    if train_predictions is not None and not on_train:
        raise UsageError(
            f"Protocol {rules.id} matches clusters on the test images, and needs no --train-predictions.",
            hint="Leave them out, or ask for a protocol with match_on=train.",
        )
    places = collect_data(root, classes, data_pairs)
    data = load_data(CellSpec(method=name, dataset=dataset, data=places, limit=limit), registry)
    if data.test_labels is None:
        raise UsageError(f"Dataset '{data.dataset.name}' has no labels to score against.")
    names = [row.name for row in data.dataset.classes]
    for notice in check_split(data.dataset, data.dataset.test_split, limit=limit).notices(names):
        progress.log(notice)
    alpha = rules.alpha if alpha is None else alpha
    found = ExternalPredictions(
        predictions, data.test_images, data.test_labels, rules, scores=scores, alpha=alpha
    )
    naming, assets = None, {}
    if train_predictions is not None:
        labels = training_labels(data.dataset, data.test_labels, limit)
        training = ExternalPredictions(
            train_predictions, data.train_images, labels, rules, scores=scores, alpha=alpha
        )
        clusters = clusters or max(found.clusters(), training.clusters())
        on_training = training.evaluate(clusters, len(names))["raw"].counts.sum(axis=0)
        naming = match_all(on_training, rules.matching, rules.extra_clusters)
        assets = {"training labels": labels.fingerprint(), "training predictions": training.digest()}
    if found.are_scores and rules.crf is not None:
        with CrfPool(rules.crf, workers=workers) as pool:
            counted = found.evaluate(clusters, len(names), pool)
    else:
        counted = found.evaluate(clusters, len(names))
    rows = {kind: score_row(score_under(one.counts, rules, naming)) for kind, one in counted.items()}
    cell = records.Cell(
        method=records.MethodId(name=name, params={}, code=f"{records.EXTERNAL}{found.digest()[:12]}"),
        dataset=records.DatasetId(
            name=data.dataset.name,
            fingerprint=data.fingerprint,
            train_split=data.dataset.train_split,
            test_split=data.dataset.test_split,
            limit=limit,
        ),
        backbone=records.BackboneId(
            name=backbone, sha256=card.sha256 if card else "", feature_dtype="float32"
        ),
        training=TrainingGeometry(),
        protocol=rules.id,
        protocol_hash=rules.hash,
        alpha=alpha,
        seed=seed,
        assets=assets,
    )
    record = records.RunRecord(
        schema=records.SCHEMA,
        id=cell.id,
        status="done",
        cell=cell,
        protocol=rules,
        classes=[records.ClassRow(name=one.name, color=one.color) for one in data.dataset.classes],
        clusters=counted["raw"].counts.shape[1],
        images=len(data.test_images),
        last=records.CheckpointResult(step=None, raw=rows["raw"], crf=rows.get("crf")),
        crf_engine="lattice" if "crf" in rows else "",
        environment=environment("cpu"),
        command=shlex.join(["uss-bench", *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels_used=list(labels_used),
        notes=["predictions made elsewhere"],
        external=records.External(title=title, paper=paper, ingredients=list(ingredients)),
    )
    kept = sorted(counted["raw"].maps)
    arrays = Arrays(
        image_ids=list(data.test_images.ids),
        counts={("last", kind): one.counts for kind, one in counted.items()},
        map_ids=[data.test_images.ids[index] for index in kept],
        maps={
            ("last", kind): stack_maps([one.maps[index] for index in kept]) for kind, one in counted.items()
        },
    )
    path, record = write_record(out, record, arrays, None)
    save_panel(path, data.test_images, data.test_labels)
    click.echo(summary.run_summary([record]))
    click.echo(f"record  {path}\npicture {path.with_suffix('.png')}")
