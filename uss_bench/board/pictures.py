"""Small pictures of predictions on generated datasets, the same bytes on every machine.

Only generated images are embedded in a board: photographs belong to others. They are drawn again from the
generator and predictions come from the record. BMP and GIF are written by Pillow's own code; the bytes of a
PNG would depend on the version of a compression library.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from uss_bench.board.model import Board, Row, Strip
from uss_bench.contracts import IGNORE, Dataset
from uss_bench.data.geometry import center_crop
from uss_bench.data.subset import limited, limited_labels
from uss_bench.errors import UssBenchError
from uss_bench.experiment.data_in_use import data_fingerprint
from uss_bench.plots.colors import IGNORED, cluster_colors
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import Protocol
from uss_bench.results.record import DatasetId, Refinement

IMAGES = 5
_SIDE = 100
"""What the short side of a picture is shrunk to, about, in pixels."""


def with_pictures(board: Board, registry: Registry) -> Board:
    """Return the board with strips of pictures, where its dataset is generated and still the same."""
    first = board.rows[0].configuration.entries[0]
    record = first.record
    dataset = generated_dataset(record.cell.dataset, registry)
    if dataset is None:
        return board
    split, limit = record.cell.dataset.test_split, record.cell.dataset.limit
    images, whole = limited(dataset.images(split), limit), dataset.labels(split)
    assert whole is not None  # its digest went into the fingerprint
    labels = limited_labels(whole, limit)

    shown = first.arrays.map_ids[:IMAGES]
    places = {name: images.ids.index(name) for name in shown}
    palette = np.array([*(one.color for one in board.classes), IGNORED], dtype=np.uint8)
    photographs = {name: _scored(images.image(place), record.protocol) for name, place in places.items()}
    truths = {name: _scored(labels.label(place), record.protocol) for name, place in places.items()}
    masks = {name: np.where(truth == IGNORE, len(board.classes), truth) for name, truth in truths.items()}
    strips = [
        Strip("image", {name: image_uri(image) for name, image in photographs.items()}),
        Strip("ground truth", {name: map_uri(mask, palette) for name, mask in masks.items()}),
        *filter(None, (_predictions(row, shown) for row in board.rows)),
    ]
    return replace(board, strips=tuple(strips))


def generated_dataset(data: DatasetId, registry: Registry) -> Dataset | None:
    """Return the dataset of a record, if it is generated and still the same, or None."""
    try:
        spec, plugin = registry.dataset(data.name)
        if not spec.generated:
            return None
        dataset: Dataset = plugin.load()(spec)
        splits = (data.train_split, data.test_split)
        train, test = (limited(dataset.images(split), data.limit) for split in splits)
        labels = dataset.labels(data.test_split)
    except UssBenchError:
        return None
    if labels is None:
        return None
    now = data_fingerprint(dataset, train, test, limited_labels(labels, data.limit))
    return dataset if now == data.fingerprint else None


def _scored(array: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the part of a native image or label map that the protocol scores."""
    side = min(array.shape[:2])
    return array if protocol.extent == "whole" else center_crop(array, side, side)


def _predictions(row: Row, shown: Sequence[str]) -> Strip | None:
    """Return the refined maps of the row's first seed, in the colors of the matched classes."""
    entry = row.configuration.entries[0]
    refinement: Refinement = "crf" if ("last", "crf") in entry.arrays.maps else "raw"
    maps: Mapping[str, np.ndarray] = dict(
        zip(entry.arrays.map_ids, entry.arrays.maps.get(("last", refinement), ()), strict=False)
    )
    if not maps.keys() >= set(shown):
        return None
    palette = cluster_colors(entry.record, entry.arrays, refinement)
    title = f"{row.title}, seed {row.runs[0].seed}" + (", CRF" if refinement == "crf" else "")
    return Strip(title, {name: map_uri(maps[name], palette) for name in shown})


def image_uri(image: np.ndarray) -> str:
    """Return a small picture of uint8 (H, W, 3): means over whole blocks, the short side about `_SIDE`."""
    factor = max(1, round(min(image.shape[:2]) / _SIDE))
    return _uri(Image.fromarray(image).reduce(factor), "bmp")


def map_uri(indices: np.ndarray, palette: np.ndarray) -> str:
    """Return a small picture of an index map (H, W) in the colors of a palette, uint8 (n, 3)."""
    scale = _SIDE / min(indices.shape)
    height, width = (max(1, round(size * scale)) for size in indices.shape)
    if many := len(palette) > 256:
        picture = Image.fromarray(palette[indices])
    else:
        picture = Image.fromarray(indices.astype(np.uint8))
        picture.putpalette(palette.tobytes())  # turns the gray image into a palette image
    return _uri(picture.resize((width, height), Image.Resampling.NEAREST), "bmp" if many else "gif")


def _uri(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
