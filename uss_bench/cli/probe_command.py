"""``uss-bench probe``: a linear probe of a record's code or of frozen features. It learns from labels."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import FiniteRange, collect_data, common, out_option
from uss_bench.errors import UsageError
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.probe import ProbeResult

EPILOG = """\b
Examples:
  uss-bench probe 9023702cb7a7
  uss-bench probe --backbone patchstats --dataset toy27
"""


@click.command("probe", epilog=EPILOG, short_help="Train a linear probe; it uses labels.")
@click.argument("record", required=False)
@click.option("--dataset", metavar="NAME", help="uss-bench ls datasets. Default: the record's, by its name.")
@click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies.")
@click.option("--classes", metavar="FILE", help="Classes file of a `folder` dataset, or its name.")
@click.option(
    "--data", "data_pairs", multiple=True, metavar="KEY=VALUE", help="Another option of the dataset."
)
@click.option("--backbone", metavar="NAME", help="Without RECORD: the frozen features to probe.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of the backbone.")
@click.option("--backbone-name", metavar="NAME", help="What records call this backbone with these weights.")
@click.option("--protocol", metavar="NAME", help="Without RECORD: default stego320@1, or stego322@1.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Without RECORD: at most N images a split."
)
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(1), help="Steps of Adam.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Items per step.")
@click.option(
    "--lr", default=5e-3, show_default=True, type=FiniteRange(0, min_open=True), help="Learning rate."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the probe.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …")
@click.option("--workers", type=click.IntRange(1), help="Processes for the CRF. Default: all cores.")
@out_option("Where records lie, and probes of features go. Default: results.")
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

    It learns from the labels of the training split, so its score says what the code holds and is no
    unsupervised result: it is written to RECORD.probe.json and stands on no board.
    """
    if record is None and (backbone is None or dataset is None):
        raise UsageError(
            "What shall be probed?", hint="Give a record's id, or frozen features: --backbone B --dataset D."
        )
    if record is not None and (protocol is not None or limit is not None):
        raise UsageError("With a record, protocol and limit are the record's; leave the options out.")

    import msgspec
    from safetensors.torch import load

    from uss_bench import progress
    from uss_bench.crf import CrfPool
    from uss_bench.device import pick_device
    from uss_bench.errors import DataError, blame
    from uss_bench.paths import atomic_write, not_written
    from uss_bench.probe import (
        LABELS_USED,
        Embedding,
        ProbeResult,
        ProbeSettings,
        Tokens,
        probe,
        train_labels,
    )
    from uss_bench.provenance import environment
    from uss_bench.record_files import find_record, read_record, read_state
    from uss_bench.setup import Request, resolve

    settings = ProbeSettings(steps=steps, batch_size=batch_size, lr=lr, seed=seed)
    data = collect_data(root, classes, data_pairs)
    where = find_record(record, [out]) if record is not None else None
    known = read_record(where) if where is not None else None
    if known is not None and not known.state_sha256:
        raise UsageError(f"{where} has no trained state to probe: the run failed, or was not a training.")
    cell = known.cell if known is not None else None
    setup = resolve(
        Request(
            method=cell.method.name if cell else "dino",  # which reads tokens, and is not trained here
            dataset=dataset or (cell.dataset.name if cell else ""),
            dataset_options=data,
            backbone=backbone or (cell.backbone.name if cell else None),
            weights=weights,
            backbone_name=backbone_name,
            protocol=cell.protocol if cell else protocol,
            params=cell.method.params if cell else {"clusters": 1},
            limit=cell.dataset.limit if cell else limit,
            feature_dtype=cell.backbone.feature_dtype if cell else "float16",
        ),
        registry,
    )
    train_labels(setup)  # told before any work
    now = setup.cell(cell.seed if cell else seed)
    if cell is not None and now.dataset != cell.dataset:
        raise DataError(
            f"These are not the images that record {where} was made with.",
            hint="Give the same --dataset, --root and --data as in its command (uss-bench show).",
        )
    if cell is not None and now.backbone != cell.backbone:
        raise DataError(
            f"These are not the weights of record {where}.",
            hint="Give the same --backbone, --weights and --backbone-name as its command (uss-bench show).",
        )
    torch_device = pick_device(device)
    subject: Embedding = Tokens()
    if where is not None and known is not None:
        if now.method.code != known.cell.method.code:
            progress.log(f"The code of '{now.method.name}' has changed since this record was made.")
        method = setup.make_method()
        with blame(f"Method '{now.method.name}'", "loading its state"):
            state = load(read_state(where, known))
            method.load_state_dict({name: value.to(torch_device) for name, value in state.items()})
        subject = method
    store = setup.open_store(torch_device)
    with CrfPool(setup.protocol.crf, workers=workers, log=progress.log) as pool:
        channels, raw, crf = probe(setup, subject, settings, store=store, pool=pool)
    result = ProbeResult(
        labels_used=[LABELS_USED],
        record=known.id if known else "",
        method=now.method.name if known else "frozen features",
        dataset=now.dataset,
        backbone=now.backbone,
        protocol=now.protocol,
        protocol_hash=now.protocol_hash,
        settings=settings,
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
    if where is not None:
        target = where.with_suffix(".probe.json")
    else:
        asked = [now.dataset, now.backbone, now.protocol_hash, settings]
        digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()[:12]
        target = out / now.dataset.name / f"{now.backbone.name}-s{seed}-{digest}.probe.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    except OSError as error:
        raise not_written(target, error) from None
    click.echo(_page(result))
    click.echo(f"probe   {target}")


def _page(result: ProbeResult) -> str:
    from tabulate import tabulate

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    rows = [
        (name, shown(row.accuracy), shown(row.miou))
        for name, row in (("raw", result.raw), ("CRF", result.crf))
    ]
    title = (
        f"linear probe · {result.method} · {result.dataset.name} · {result.backbone.name} · {result.protocol}"
    )
    return "\n".join(
        [
            "",
            click.style(title, bold=True),
            f"Uses the labels of '{result.dataset.train_split}' ({result.train_images} images): "
            "no unsupervised result.",
            "",
            tabulate(rows, headers=["", "Acc", "mIoU"], stralign="right", disable_numparse=True),
            "",
        ]
    )
