"""Miniature files of Potsdam in their genuine formats: the distributed archive, and TIFF as from GDAL."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from uss_bench.plugins.registry import Registry

SPEC, PLUGIN = Registry().dataset("potsdam3")
ENTRY = PLUGIN.load()
PACKAGE = ENTRY.__module__.rpartition(".")[0]
RNG = np.random.default_rng(0)
PATCH = RNG.integers(0, 256, (200, 200, 4), dtype=np.uint8)
VALUES = RNG.integers(0, 6, (200, 200), dtype=np.int32)
VALUES[0, 0] = 255
COLORS = np.array(
    [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]], np.uint8
)
LISTS = {
    "labelled_train": (4545, ["7", "3"]),
    "labelled_test": (855, ["12"]),
    "unlabelled_train": (3150, ["1"]),
}


def load(root: Path, **options: Any) -> Any:
    return ENTRY(SPEC, root=root, **options)


def module(name: str) -> Any:
    return sys.modules[f"{PACKAGE}.{name}"]


def archive(root: Path, *, with_all: bool = True) -> Path:
    """Lay out the distributed archive with four of its patches."""
    (root / "imgs").mkdir(parents=True)
    (root / "gt").mkdir()
    for stem, (_, names) in LISTS.items():
        (root / f"{stem}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            savemat(root / "imgs" / f"{name}.mat", {"img": PATCH}, do_compression=name == "3")
            if stem != "unlabelled_train":
                savemat(root / "gt" / f"{name}.mat", {"gt": VALUES})
    if with_all:
        (root / "all.txt").write_text("12\n7\n1\n3\n")
    return root


def tiff(path: Path, array: np.ndarray, **changes: Any) -> Path:
    """Write an 8-bit TIFF as GDAL does: samples side by side, one strip per row or some more.

    Changes: `rows` per strip, `deflate`, `predictor`, `big` (BigTIFF), `order` of bytes, `tags`.
    """
    order, big = changes.get("order", "<"), changes.get("big", False)
    height, width, channels = array.shape
    rows = changes.get("rows", 1)
    stored = array
    if changes.get("predictor") == 2:
        stored = np.diff(array, axis=1, prepend=np.zeros((height, 1, channels), np.uint8))
    strips = [stored[top : top + rows].tobytes() for top in range(0, height, rows)]
    if changes.get("deflate"):
        strips = [zlib.compress(strip, 1) for strip in strips]
    start = 16 if big else 8
    offsets = [start + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {
        256: [width], 257: [height], 258: [8] * channels, 259: [8 if changes.get("deflate") else 1],
        262: [2], 273: offsets, 277: [channels], 278: [rows], 279: [len(strip) for strip in strips],
        284: [1], 317: [changes.get("predictor", 1)], 338: [0],
    } | changes.get("tags", {})  # fmt: skip
    position = start + sum(map(len, strips))
    count, entry, cell = ("Q", "HHQ", 8) if big else ("H", "HHL", 4)
    body, far = struct.pack(order + count, len(tags)), b""
    after = position + len(body) + len(tags) * (20 if big else 12) + cell
    for tag, values in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}L", *values)
        body += struct.pack(order + entry, tag, 4, len(values))
        if len(data) > cell:
            body += struct.pack(order + ("Q" if big else "L"), after + len(far))
            far += data
        else:
            body += data.ljust(cell, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, position) if big else struct.pack(order + "HL", 42, position)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mark + head + b"".join(strips) + body + bytes(cell) + far)
    return path
