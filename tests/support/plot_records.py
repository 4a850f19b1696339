"""Synthetic records for figures and reports: any cells, with counts from which their scores follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import write_record
from uss_bench.results.record import (
    SCHEMA,
    BackboneId,
    Candidate,
    Cell,
    CheckpointResult,
    ClassRow,
    DatasetId,
    MethodId,
    Phase,
    RunRecord,
)

COLORS = ((86, 180, 233), (213, 94, 0), (0, 158, 115), (204, 121, 167))
IMAGES = 4


def a_cell(
    method: str = "ds2dl",
    *,
    seed: int = 0,
    dataset: str = "tiny",
    backbone: str = "vit",
    protocol: str = "stego320@2",
    training: TrainingGeometry | None = None,
    code: str = "c0de",
    fingerprint: str = "f1",
    **params: Any,
) -> Cell:
    found = get_protocol(protocol)
    return Cell(
        method=MethodId(name=method, params=params, code=code),
        dataset=DatasetId(name=dataset, fingerprint=fingerprint, train_split="train", test_split="test"),
        backbone=BackboneId(name=backbone, sha256="ab12", feature_dtype="float16"),
        training=training or TrainingGeometry(),
        protocol=found.id,
        protocol_hash=found.hash,
        alpha=2.0,
        seed=seed,
    )


def some_counts(seed: int, *, hits: float = 0.6, classes: int = 3, clusters: int | None = None) -> np.ndarray:
    """Return counts int64 (N, K, C) in which about the share `hits` of each class lands in its cluster."""
    rng = np.random.default_rng(seed)
    clusters = clusters or classes
    shares = (1 - hits) * rng.dirichlet(np.ones(clusters), (IMAGES, classes))
    shares[:, np.arange(classes), rng.permutation(clusters)[:classes]] += hits
    pixels = rng.integers(200, 400, (IMAGES, 1, classes))
    return np.rint(shares.transpose(0, 2, 1) * pixels).astype(np.int64)


def put(
    folder: Path,
    cell: Cell,
    raw: np.ndarray,
    crf: np.ndarray | None = None,
    *,
    maps: np.ndarray | None = None,
    state: bytes | None = None,
    **fields: Any,
) -> Path:
    """Write a finished record whose scores follow from its counts, and return its path.

    Args:
        crf: refined counts; the raw ones if not given.
        maps: index maps (M, H, W) of the first M images, raw and refined alike.
    """
    counts = {("last", "raw"): raw, ("last", "crf"): raw if crf is None else crf}
    protocol = get_protocol(cell.protocol)
    rows = {kind: score_row(score_under(value, protocol)) for (_, kind), value in counts.items()}
    result = CheckpointResult(step=None, **rows)
    images, clusters, classes = raw.shape
    names = [f"image-{index}" for index in range(images)]
    arrays = Arrays(
        image_ids=names,
        counts=counts,
        map_ids=names[: 0 if maps is None else len(maps)],
        maps={} if maps is None else {("last", "raw"): maps, ("last", "crf"): maps},
    )
    given = {
        "classes": [ClassRow(name=f"class {i}", color=COLORS[i % 4]) for i in range(classes)],
        "clusters": clusters,
        "images": images,
        "last": result,
        "selected": result,
        "candidates": [
            Candidate(step=10, accuracy=40.0, miou=20.0),
            Candidate(step=None, accuracy=1, miou=2),
        ],
        "curves": {"data": [(1, 3.0), (50, 1.0)], "smoothness": [(1, -0.5), (50, 0.25)]},
        "phases": {
            "train": Phase(seconds=10.0 + cell.seed, peak_bytes=2**30),
            "evaluate": Phase(seconds=5.0, peak_bytes=2**31),
        },
        "environment": {"processor": "a processor", "device": "cpu", "torch": "2.0"},
        "command": "uss-bench run --method x",
        "created": "2026-01-01T00:00:00+00:00",
        "crf_engine": "lattice",
    } | fields
    record = RunRecord(schema=SCHEMA, id=cell.id, status="done", cell=cell, protocol=protocol, **given)
    path, _ = write_record(folder, record, arrays, state)
    return path
