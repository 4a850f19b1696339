"""Records of features as ``uss-bench features`` leaves them, with made-up numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.feature_record import (
    LABELED,
    BackboneCost,
    FeatureCell,
    FeatureRecord,
    FeatureRow,
    FeatureSettings,
    Measure,
    feature_path,
)
from uss_bench.results.record import BackboneId, DatasetId, ScoreRow

_SETTINGS = FeatureSettings()


def write_features(
    out: Path,
    backbone: str,
    scores: Mapping[tuple[Measure, int | None], float],
    *,
    seed: int = 0,
    facet: str = "tokens",
    flops: int = 10**9,
    parameters: int | None = 1_500_000,
    settings: FeatureSettings = _SETTINGS,
    protocol: str = "stego320@2[crf=none]",
    fingerprint: str = "f",
    notes: tuple[str, ...] = (),
) -> Path:
    """Write a record whose rows have these mIoU, by measure and number of clusters; return its path."""
    cell = FeatureCell(
        dataset=DatasetId(
            name="town", fingerprint=fingerprint, train_split="train", test_split="test", limit=None
        ),
        backbone=BackboneId(name=backbone, sha256=backbone, feature_dtype="float16", positions=""),
        facet=facet,
        training=TrainingGeometry(),
        protocol=protocol,
        protocol_hash=get_protocol(protocol).hash,
        settings=settings,
        code={},
        seed=seed,
    )
    rows = [
        FeatureRow(
            measure=measure,
            uses_labels=measure in LABELED,
            clusters=clusters,
            matching=None if clusters is None else "many-to-one",
            train_images=9,
            scores=ScoreRow(
                accuracy=miou + 1,
                miou=miou,
                iou=[miou],
                precision=[miou],
                recall=[miou],
                class_of_cluster=[0],
                clusters_used=1,
                pixels=1,
            ),
        )
        for (measure, clusters), miou in scores.items()
    ]
    record = FeatureRecord(
        id=cell.id,
        cell=cell,
        labels_used=sorted({row.measure for row in rows if row.uses_labels}),
        classes=["a", "b"],
        channels=64,
        patch=8,
        images=7,
        rows=rows,
        cost=BackboneCost(parameters=parameters, size=(320, 320), flops=flops, seconds=0.0123),
        notes=list(notes),
        environment={"device": "cpu", "processor": "a processor"},
    )
    path = feature_path(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(record))
    return path
