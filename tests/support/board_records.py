"""Small records with planted scores, for tests of what is made of records."""

from __future__ import annotations

from collections.abc import Sequence
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

FLOORS = {"constant", "random"}
"""Methods of these records that look at no feature."""

IMAGES = 40
CLASSES = ("sky", "road", "tree")


def planted_counts(skill: float, seed: int, *, images: int = IMAGES, clusters: int = 3) -> np.ndarray:
    """Return int64 (N, K, 3): cluster c holds about `skill` of class c, and the rest lies anywhere."""
    rng = np.random.default_rng(seed)
    shares = np.full((clusters, 3), (1 - skill) / clusters)
    shares[np.arange(3), np.arange(3)] += skill
    totals = rng.integers(200, 400, (images, 1, 3))
    return rng.poisson(totals * rng.dirichlet(np.full(3, 20.0), images)[:, None] * shares)


def write_runs(
    folder: Path,
    method: str,
    skill: float = 0.5,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    params: dict[str, Any] | None = None,
    code: str = "0123456789ab",
    dataset: str = "town",
    fingerprint: str = "f0",
    limit: int | None = None,
    backbone: str = "vit",
    sha256: str = "aa",
    protocol: str = "stego320@2",
    training: TrainingGeometry | None = None,
    crf: bool = True,
    selected_skill: float | None = None,
    clusters: int = 3,
    classes: Sequence[str] = CLASSES,
    **fields: Any,
) -> list[Path]:
    """Write a record per seed of a method that has `skill`, and return their paths.

    Args:
        selected_skill: of the checkpoint that labels chose; None: no other checkpoint was offered.
        fields: of the record.
    """
    rules = get_protocol(protocol)
    paths = []
    for seed in seeds:
        cell = Cell(
            method=MethodId(name=method, params=params or {}, code=code),
            dataset=DatasetId(
                name=dataset, fingerprint=fingerprint, train_split="train", test_split="test", limit=limit
            ),
            backbone=BackboneId(name=backbone, sha256=sha256, feature_dtype="float16"),
            training=training or TrainingGeometry(),
            protocol=rules.id,
            protocol_hash=rules.hash,
            alpha=2.0,
            seed=seed,
        )
        kinds = ("raw", "crf") if crf else ("raw",)
        skills = {"last": skill} | ({} if selected_skill is None else {"selected": selected_skill})
        counts = {
            (checkpoint, kind): planted_counts(value - 0.02 * (kind == "raw"), 7 * seed, clusters=clusters)
            for checkpoint, value in skills.items()
            for kind in kinds
        }
        results = {
            checkpoint: CheckpointResult(
                step=None if checkpoint == "last" else 100,
                raw=score_row(score_under(counts[checkpoint, "raw"], rules)),
                crf=score_row(score_under(counts[checkpoint, "crf"], rules)) if crf else None,
            )
            for checkpoint in skills
        }
        candidates = [
            Candidate(step=step, accuracy=1.0, miou=1.0) for step in ([100] if len(skills) > 1 else [])
        ]
        given = {
            "phases": {"train": Phase(seconds=10.0 + seed, peak_bytes=2**30 * (1 + seed))},
            "command": f"uss-bench run --method {method} --seeds {len(seeds)}",
            "environment": {"device": "cpu"},
        } | fields
        record = RunRecord(
            schema=SCHEMA,
            id=cell.id,
            status="done",
            cell=cell,
            protocol=rules,
            classes=[ClassRow(name=name, color=(40 * i, 90, 200)) for i, name in enumerate(classes)],
            clusters=clusters,
            images=IMAGES,
            last=results["last"],
            selected=results.get("selected"),
            candidates=[*candidates, Candidate(step=None, accuracy=1.0, miou=1.0)],
            **given,
        )
        ids = [f"image-{index}" for index in range(IMAGES)]
        maps = {("last", kind): np.zeros((2, 8, 8), dtype=np.uint8) for kind in kinds}
        path, _ = write_record(folder, record, Arrays(ids, counts, ids[:2], maps), None)
        paths.append(path)
    return paths


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|`*_&\\%${}#~^ {{ 7*7 }} =1+1"
"""What a record may hold that tries to become markup."""
