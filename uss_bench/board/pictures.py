"""Small pictures of predictions on generated datasets, the same bytes on every machine.

Only generated images are embedded in a board: photographs are not ours to give away. They are drawn
again from the generator and shrunk by whole factors in integers, predictions come from the record, and
the PNG is stored without compression, whose bytes depend on the version of a library.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from uss_bench.board.model import Board, Picture, Row, Strip
from uss_bench.contracts import IGNORE, Dataset
from uss_bench.errors import UssBenchError
from uss_bench.geometry import centre_crop
from uss_bench.panels import IGNORED_COLOUR, cluster_colours
from uss_bench.protocol import Protocol
from uss_bench.record_files import read_arrays, read_record
from uss_bench.records import Refinement, RunRecord
from uss_bench.registry import Registry
from uss_bench.setup import data_fingerprint
from uss_bench.subset import limited, limited_labels

GENERATED = frozenset({"toy3", "toy27"})
IMAGES = 5
_SIDE = 100
"""What the short side of a picture is shrunk to, about, in pixels."""


def with_pictures(board: Board, registry: Registry) -> Board:
    """Return the board with strips of pictures, where its dataset is generated and still the same."""
    record = read_record(board.rows[0].runs[0].path)
    dataset = _dataset(record, registry)
    if dataset is None:
        return board
    limit = record.cell.dataset.limit
    split = record.cell.dataset.test_split
    images = limited(dataset.images(split), limit)
    whole = dataset.labels(split)
    assert whole is not None  # its digest went into the fingerprint
    labels = limited_labels(whole, limit)

    shown = read_arrays(board.rows[0].runs[0].path, record).map_ids[:IMAGES]
    places = [list(images.ids).index(name) for name in shown]
    palette = np.array([*(one.colour for one in board.classes), IGNORED_COLOUR], dtype=np.uint8)
    photographs = [shrink(_scored(images.image(place), record.protocol)) for place in places]
    truths = [_scored(labels.label(place), record.protocol) for place in places]
    masks = [np.where(truth == IGNORE, len(board.classes), truth) for truth in truths]
    strips = [
        Strip("image", _pictures(shown, [true_colour_png(one) for one in photographs])),
        Strip("ground truth", _pictures(shown, [_map_png(mask, palette) for mask in masks])),
    ]
    strips += [strip for row in board.rows if (strip := _predictions(row, shown)) is not None]
    return replace(board, strips=tuple(strips))


def _dataset(record: RunRecord, registry: Registry) -> Dataset | None:
    """Return the generated dataset that the record was made on, or None."""
    data = record.cell.dataset
    if data.name not in GENERATED:
        return None
    try:
        spec, plugin = registry.dataset(data.name)
        dataset: Dataset = plugin.load()(spec)
        train, test = (
            limited(dataset.images(one), data.limit) for one in (data.train_split, data.test_split)
        )
        labels = dataset.labels(data.test_split)
    except UssBenchError:
        return None
    if labels is None:
        return None
    now = data_fingerprint(dataset, train, test, limited_labels(labels, data.limit))
    return dataset if now == data.fingerprint else None


def _scored(array: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the part of a native image or label map that the protocol scores."""
    if protocol.extent == "whole":
        return array
    side = min(array.shape[:2])
    return centre_crop(array, side, side)


def _predictions(row: Row, shown: Sequence[str]) -> Strip | None:
    """Return the refined maps of the row's first seed, in the colours of the matched classes."""
    run = row.runs[0]
    record = read_record(run.path)
    arrays = read_arrays(run.path, record)
    refinement: Refinement = "crf" if ("last", "crf") in arrays.maps else "raw"
    maps = arrays.maps.get(("last", refinement))
    if maps is None or any(name not in arrays.map_ids for name in shown):
        return None
    palette = cluster_colours(record, arrays, "last", refinement)
    chosen = [maps[arrays.map_ids.index(name)] for name in shown]
    title = f"{row.label}, seed {run.seed}" + (", CRF" if refinement == "crf" else "")
    return Strip(title, _pictures(shown, [_map_png(one, palette) for one in chosen]))


def _pictures(names: Sequence[str], files: Sequence[bytes]) -> tuple[Picture, ...]:
    return tuple(Picture(name, png) for name, png in zip(names, files, strict=True))


def shrink(image: np.ndarray) -> np.ndarray:
    """Return uint8 (h, w, 3): means over whole blocks, the short side about `_SIDE` if it was longer."""
    factor = max(1, round(min(image.shape[:2]) / _SIDE))
    height, width = (size // factor for size in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    total: np.ndarray = blocks.astype(np.int64).sum(axis=(1, 3))
    area = factor * factor
    means: np.ndarray = ((total + area // 2) // area).astype(np.uint8)
    return means


def _map_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a palette PNG of an index map (H, W), its nearest pixels at about `_SIDE`."""
    step = min(indices.shape) / _SIDE
    height, width = (max(1, round(size / step)) for size in indices.shape)
    rows = ((np.arange(height) + 0.5) * indices.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * indices.shape[1] / width).astype(np.int64)
    return palette_png(indices[rows][:, columns].astype(np.uint8), palette)


def true_colour_png(image: np.ndarray) -> bytes:
    """Return a PNG of uint8 (H, W, 3)."""
    height, width, _ = image.shape
    return _png(height, width, 8, 2, b"", [row.tobytes() for row in image])


def palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a PNG of indices uint8 (H, W) into a palette uint8 (n, 3), in as few bits as will do."""
    height, width = indices.shape
    bits = next(size for size in (1, 2, 4, 8) if len(palette) <= 2**size)
    per_byte = 8 // bits
    padded = np.zeros((height, math.ceil(width / per_byte) * per_byte), dtype=np.uint8)
    padded[:, :width] = indices
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * bits
    packed = (padded.reshape(height, -1, per_byte) << shifts).sum(axis=2, dtype=np.uint8)
    return _png(height, width, bits, 3, palette.tobytes(), [row.tobytes() for row in packed])


def _png(height: int, width: int, bits: int, kind: int, palette: bytes, rows: Sequence[bytes]) -> bytes:
    pixels = b"".join(b"\0" + row for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"IDAT", _stored(pixels)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _stored(data: bytes) -> bytes:
    """Return a zlib stream that holds `data` as it is."""
    starts = range(0, max(len(data), 1), 65535)
    blocks = b"".join(
        struct.pack("<BHH", start + 65535 >= len(data), len(part), len(part) ^ 0xFFFF) + part
        for start in starts
        for part in [data[start : start + 65535]]
    )
    return b"\x78\x01" + blocks + struct.pack(">I", zlib.adler32(data))
