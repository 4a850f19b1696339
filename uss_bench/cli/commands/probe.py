"""``uss-bench probe``: a linear probe of a record's code or of frozen features. It learns from labels."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import PATH, FiniteRange, common, device_option, out_option, workers_option
from uss_bench.errors import UsageError
from uss_bench.experiment.command_line import collect_data, parse_pairs
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.experiment.probe import ProbeResult

EPILOG = """\b
Examples:
  uss-bench probe 9023702cb7a7
  uss-bench probe --backbone patchstats --dataset toy27
"""


@click.command("probe", epilog=EPILOG, short_help="Train a linear probe; it uses labels.")
@click.argument("record", required=False)
@click.option("--dataset", metavar="NAME", help="Dataset (uss-bench ls datasets). Default: the record's.")
@click.option("--root", type=PATH, metavar="DIR", help="The dataset's folder.")
@click.option(
    "--classes", metavar="FILE", help="Classes of a `folder` dataset: a file, or a known name such as camvid."
)
@click.option(
    "--data",
    "data_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the dataset (uss-bench info DATASET). May be repeated.",
)
@click.option("--backbone", metavar="NAME", help="Backbone whose features to probe, or RECORD's own.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights file of the backbone.")
@click.option(
    "--backbone-name", metavar="NAME", help="Without RECORD: name of the backbone with these weights."
)
@click.option(
    "--protocol",
    metavar="NAME",
    help="Without RECORD: evaluation protocol. Default: stego320@2; stego322@2 for patch 14.",
)
@click.option(
    "--training",
    "training_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Without RECORD: how training images are read, as in uss-bench run.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Without RECORD: use at most N images of each split."
)
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(1), help="Steps of Adam.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Images per step.")
@click.option(
    "--lr", default=5e-3, show_default=True, type=FiniteRange(0, min_open=True), help="Learning rate."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the probe.")
@device_option
@workers_option
@out_option("Results folder, also for probes of features. Default: results.")
@common
def command(
    registry: Registry,
    record: str | None,
    dataset: str | None,
    root: Path | None,
    classes: str | None,
    data_pairs: tuple[str, ...],
    backbone: str | None,
    weights: Path | None,
    backbone_name: str | None,
    protocol: str | None,
    training_pairs: tuple[str, ...],
    limit: int | None,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: str,
    workers: int | None,
    out: Path,
) -> None:
    """Train a linear classifier on the code of RECORD, or on frozen features, with labels.

    Data and weights of RECORD are taken from where its command has them, unless the options say otherwise.

    It learns from the labels of the training split, so its score says what the code holds and is no
    unsupervised result: it is written to RECORD.probe.json and stands on no board.
    """
    if record is None and (backbone is None or dataset is None):
        raise UsageError(
            "Nothing is named that could be probed.",
            hint="Give a record's id, or frozen features: --backbone B --dataset D.",
        )
    if record is not None and (protocol is not None or limit is not None or training_pairs):
        raise UsageError(
            "With a record, protocol, training images and limit are the record's; leave the options out."
        )

    import msgspec

    from uss_bench.experiment import probe as probing
    from uss_bench.experiment.cells import CellSpec
    from uss_bench.experiment.recipe import find_recipe
    from uss_bench.experiment.resolving import resolve
    from uss_bench.experiment.restoring import restore
    from uss_bench.files.atomic import atomic_write, not_written
    from uss_bench.files.json_file import read_json
    from uss_bench.results.files import find_record, read_record
    from uss_bench.results.provenance import environment
    from uss_bench.runtime.device import pick_device

    configuration = probing.ProbeConfiguration(steps=steps, batch_size=batch_size, lr=lr, seed=seed)
    torch_device = pick_device(device)
    path = find_record(record, [out]) if record is not None else None
    probed = read_record(path) if path is not None else None
    if path is not None and probed is not None:
        given = {"dataset": dataset, "root": root, "classes": classes, "data_pairs": data_pairs}
        given |= {"backbone": backbone, "weights": weights}
        setup = find_recipe(probed, **given).setup(registry)
        setup.train_labels()  # refuses data without labels before any work
        subject = restore(path, probed, setup, registry, torch_device).method
        target = path.with_suffix(".probe.json")
    else:
        registry.extra.append(Path(probing.__file__).parent / "frozen_features")
        frozen = CellSpec(
            method="frozen-features",
            dataset=dataset or "",
            data=collect_data(root, classes, data_pairs),
            backbone=backbone,
            weights=None if weights is None else str(weights),
            backbone_name=backbone_name,
            protocol=protocol,
            training=parse_pairs(training_pairs, "--training"),
            limit=limit,
        )
        setup = resolve(frozen, registry)
        setup.train_labels()
        subject = setup.make_method()
        cell = setup.cell(0)
        asked = [cell.dataset, cell.backbone, cell.training.stated, cell.protocol_hash, configuration]
        digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()[:12]
        target = out / setup.dataset.name / f"{setup.backbone.name}-s{seed}-{digest}.probe.json"
    if target.exists():  # which is replaced if it is one
        read_json(target, probing.ProbeResult, "probe")
    store = setup.open_store(torch_device)
    with setup.open_crf(workers=workers) as pool:
        channels, raw, crf = probing.probe(setup, subject, configuration, store=store, pool=pool)
    cell = setup.cell(seed)
    result = probing.ProbeResult(
        labels_used=[probing.LABELS_USED],
        record=probed.id if probed else "",
        method=cell.method.name if probed else "frozen features",
        dataset=cell.dataset,
        backbone=cell.backbone,
        training=cell.training,
        protocol=cell.protocol,
        protocol_hash=cell.protocol_hash,
        settings=configuration,
        channels=channels,
        train_images=len(setup.train_images),
        images=len(setup.test_images),
        classes=[row.name for row in setup.dataset.classes],
        raw=raw,
        crf=crf,
        environment=environment(str(torch_device)),
        command=shlex.join(["uss-bench", *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    except OSError as error:
        raise not_written(target, error) from None
    click.echo(_page(result))
    click.echo(f"probe   {target}")


def _page(result: ProbeResult) -> str:
    from uss_bench.cli.output.tables import table
    from uss_bench.results.scores import METRICS, REFINEMENTS
    from uss_bench.runtime.formatting import number

    rows = [(REFINEMENTS["raw"], number(result.raw.accuracy), number(result.raw.miou))]
    if result.crf is not None:
        rows.append((REFINEMENTS["crf"], number(result.crf.accuracy), number(result.crf.miou)))
    facts = ["linear probe", result.method, result.dataset.name, result.backbone.name, result.protocol]
    return "\n".join(
        [
            "",
            click.style(" · ".join(facts), bold=True),
            f"Uses the labels of '{result.dataset.train_split}' ({result.train_images} images): "
            "no unsupervised result.",
            "",
            table(rows, ["", *METRICS.values()], align="rrr"),
            "",
        ]
    )
