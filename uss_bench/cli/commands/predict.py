"""``uss-bench predict``: label any folder of images with a recorded run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import DIR, PATH, aux_option, common, device_option, workers_option
from uss_bench.errors import RunError, UsageError
from uss_bench.experiment.command_line import parse_folders
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

UNMATCHED = -1
"""In place of a class, as in `uss_bench.results.record`, which a wrong option need not import."""
_NAMED = 5
"""How many images that failed an error names."""
_OPACITY = 0.6
"""Of the colors that are laid over an image."""


@click.command("predict", short_help="Label any folder of images with a recorded run.")
@click.option(
    "--record",
    "record_name",
    required=True,
    metavar="ID",
    help="The record: its path, or the start of its id.",
)
@click.option(
    "--images",
    "folder",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Folder of images.",
)
@click.option(
    "--dataset",
    default="folder",
    show_default=True,
    metavar="NAME",
    help="Dataset plugin that reads the folder.",
)
@click.option(
    "--out",
    required=True,
    type=DIR,
    metavar="DIR",
    help="Folder for the label maps.",
)
@click.option(
    "--results",
    default="results",
    show_default=True,
    type=PATH,
    metavar="DIR",
    help="Folder in which to find the record.",
)
@click.option("--backbone", metavar="NAME", help="Backbone of the record. Default: as in its command.")
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="Weights file. Default: as in the record's command.",
)
@aux_option(
    "Folder of maps, such as depth, that the method reads as channel NAME; one per image, of its size."
)
@click.option(
    "--overlay", is_flag=True, help="Also write each image with its classes drawn over it, as JPEG."
)
@click.option("--crf/--no-crf", default=True, show_default=True, help="Refine with the dense CRF.")
@workers_option
@device_option
@common
def command(
    registry: Registry,
    record_name: str,
    folder: Path,
    dataset: str,
    out: Path,
    results: Path,
    backbone: str | None,
    weights: Path | None,
    aux_pairs: tuple[str, ...],
    overlay: bool,
    crf: bool,
    workers: int | None,
    device: str,
) -> None:
    """Label every image of a folder with the method that a record's run trained.

    Writes one palette PNG per image, whose values are cluster indices and whose colors are those of
    the matched classes, at the image's own size, and legend.json, which names the clusters; with --overlay
    also a picture of the image under these colors. Files that uss-bench did not write, or that were
    changed since, are not replaced.

    An image that cannot be read is left out and named at the end; the exit code is then 1.
    """
    from uss_bench.api.trained import TrainedModel
    from uss_bench.data.overlay import AuxFolder, Overlay
    from uss_bench.files.owned import OwnedFiles
    from uss_bench.plugins.loading import load_dataset
    from uss_bench.results.files import find_record
    from uss_bench.runtime import progress

    if out.exists() and out.resolve() == folder.resolve():
        raise UsageError(
            "--out is the folder of the images.", hint="Choose another folder for the label maps."
        )
    path = find_record(record_name, [results])
    model = TrainedModel(path, registry, backbone=backbone, weights=weights, device=device)
    if model.record.clusters > 256:
        raise UsageError(f"A palette PNG holds 256 clusters, and this run has {model.record.clusters}.")
    opened, _ = load_dataset(registry, dataset, {"root": str(folder)})
    images = opened.images(opened.test_split)
    for remark in getattr(images, "remarks", ()):
        progress.log(remark)
    if aux_pairs:
        folders = parse_folders(aux_pairs, "--aux")
        images = Overlay(images, [AuxFolder(name, Path(place)) for name, place in folders.items()])
    colors = model.colors(crf=crf)
    owned = OwnedFiles(out)
    endings = (".png", ".overlay.jpg") if overlay else (".png",)
    owned.check(["legend.json", *(f"{name}{ending}" for name in images.ids for ending in endings)])
    places = {name: index for index, name in enumerate(images.ids)}
    with owned:
        for name, labels in model.label_maps(images, crf=crf, workers=workers):
            files = {f"{name}.png": _palette_png(labels, colors)}
            if overlay:
                files[f"{name}.overlay.jpg"] = _overlay_jpeg(images.image(places[name]), colors[labels])
            owned.write(files)
    matched = model.class_of_cluster(crf=crf)
    legend = {
        str(cluster): {
            "class": None if one == UNMATCHED else model.classes[one],
            "color": color.tolist(),
        }
        for cluster, (one, color) in enumerate(zip(matched, colors, strict=True))
    }
    owned.write({"legend.json": json.dumps(legend, indent=1).encode() + b"\n"})
    failed = model.failed
    click.echo(f"{len(images) - len(failed)} label maps and legend.json in {out}")
    if failed:
        named = [f"  {name}: {reason}" for name, reason in list(failed.items())[:_NAMED]]
        more = [f"  and {len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
        raise RunError(
            "\n".join([f"{len(failed)} of {len(images)} images could not be labeled:", *named, *more]),
            hint="Replace or remove them, and give the command again.",
        )


def _palette_png(labels: np.ndarray, colors: np.ndarray) -> bytes:
    from PIL import Image

    picture = Image.fromarray(labels.astype("uint8"))
    picture.putpalette(colors.ravel().tolist())  # turns the gray image into a palette image
    return _encoded(picture, "PNG")


def _overlay_jpeg(image: np.ndarray, colors: np.ndarray) -> bytes:
    from PIL import Image

    return _encoded(Image.blend(Image.fromarray(image), Image.fromarray(colors), _OPACITY), "JPEG")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()
