"""``uss-bench predict``: label any folder of images with a recorded run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import click

from uss_bench.cli.options import common
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.registry import Registry


@click.command("predict", short_help="Label any folder of images with a recorded run.")
@click.option("--record", "record_name", required=True, metavar="ID", help="A record's id or path.")
@click.option(
    "--images",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of images.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the label maps go.",
)
@click.option(
    "--results",
    default="results",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to look for the record.",
)
@click.option(
    "--backbone", metavar="NAME", help="The record's backbone, if its name alone does not lead to it."
)
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="The weights the record was made with."
)
@click.option("--crf/--no-crf", default=True, show_default=True, help="Refine with the dense CRF.")
@click.option("--workers", type=click.IntRange(1), help="Processes for the CRF. Default: all cores.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …")
@common
def command(
    registry: Registry,
    record_name: str,
    folder: Path,
    out: Path,
    results: Path,
    backbone: str | None,
    weights: Path | None,
    crf: bool,
    workers: int | None,
    device: str,
) -> None:
    """Label every image of a folder with the method that a record's run trained.

    Writes one palette PNG per image, whose values are cluster indices and whose colours are those of
    the matched classes, at the image's own size, and legend.json, which names the clusters.
    """
    import numpy as np
    from PIL import Image
    from safetensors.torch import load

    from uss_bench import progress
    from uss_bench.crf import CrfPool
    from uss_bench.device import pick_device
    from uss_bench.encoding import Encoder
    from uss_bench.panels import cluster_colours
    from uss_bench.prediction import Predictor
    from uss_bench.provenance import code_hash
    from uss_bench.record_files import find_record, read_arrays, read_record, read_state
    from uss_bench.records import UNMATCHED
    from uss_bench.setup import load_backbone, load_dataset

    path = find_record(record_name, [results])
    record = read_record(path)
    if record.status != "done":
        raise UsageError(f"Record {path} is of a failed run: there is nothing to predict with.")
    if not record.state_sha256:
        raise UsageError(f"Record {path} has no trained state: its label maps were made elsewhere.")
    if record.clusters > 256:
        raise UsageError(f"A palette PNG holds 256 clusters, and this run has {record.clusters}.")
    spec, plugin = registry.method(record.cell.method.name)
    if code_hash(plugin.folder) != record.cell.method.code:
        progress.log(f"The code of '{spec.name}' has changed since this record was made.")
    wanted = record.cell.backbone
    torch_device = pick_device(device)
    network = load_backbone(
        registry, backbone or wanted.name, weights=weights, positions=record.protocol.positions
    ).to(torch_device)
    if network.sha256 != wanted.sha256:
        raise DataError(
            f"These are not the weights of the record: it was made with {wanted.name} {wanted.sha256[:12]}, "
            f"this is {network.name} {network.sha256[:12]}.",
            hint="Give the same --backbone and --weights as in the record's command (uss-bench show).",
        )
    content = read_state(path, record)
    with blame(f"Method '{spec.name}'", "loading its state"):
        state = load(content)
        method = plugin.load()(**record.cell.method.params)
        method.load_state_dict({name: value.to(torch_device) for name, value in state.items()})

    dataset, _ = load_dataset(registry, "folder", {"root": str(folder)})
    images = dataset.images(dataset.test_split)
    refinement: Literal["raw", "crf"] = "crf" if crf else "raw"
    colours = cluster_colours(record, read_arrays(path, record), "last", refinement)
    matched: list[int] = []
    if record.last is not None:
        row = record.last.crf if crf and record.last.crf else record.last.raw
        matched = row.class_of_cluster
    encoder = Encoder(network, torch_device, dtype=wanted.feature_dtype)
    predictor = Predictor(method, spec, encoder, record.protocol, record.cell.alpha)
    with CrfPool(record.protocol.crf, workers=workers, log=progress.log) as pool:
        maps = predictor.label_maps(images, pool if crf else None)
        for name, labels in progress.track(maps, total=len(images), label="predict"):
            picture = Image.fromarray(labels.astype(np.uint8))
            picture.putpalette(colours.ravel().tolist())  # turns the grey image into a palette image
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            _write(out / f"{name}.png", buffer.getvalue())
    legend = {
        str(cluster): {
            "class": record.classes[matched[cluster]].name
            if matched and matched[cluster] != UNMATCHED
            else None,
            "colour": colours[cluster].tolist(),
        }
        for cluster in range(len(colours))
    }
    _write(out / "legend.json", json.dumps(legend, indent=1).encode() + b"\n")
    click.echo(f"{len(images)} label maps and legend.json in {out}")


def _write(path: Path, content: bytes) -> None:
    from uss_bench.paths import atomic_write, not_written

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise not_written(path, error) from None
