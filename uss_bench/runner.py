"""Running a cell: prepare, train, choose, evaluate, record."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from safetensors.torch import load, save

from uss_bench import progress
from uss_bench.context import SNAPSHOT_SECONDS, Clock, RunContext, derive_seed, portable_state
from uss_bench.contracts import Method
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, UssBenchError, blame
from uss_bench.evaluation import Evaluation, Evaluator
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.monitoring import collapse_warning, monitor, sample_batches
from uss_bench.protocol import Protocol
from uss_bench.provenance import environment
from uss_bench.record_files import Arrays, is_done, read_record, record_path, write_record
from uss_bench.records import (
    SCHEMA,
    Candidate,
    Checkpoint,
    CheckpointResult,
    ClassRow,
    MonitorPoint,
    Refinement,
    RunRecord,
    ScoreRow,
)
from uss_bench.scoring import Scores, score_under
from uss_bench.setup import Setup
from uss_bench.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record and where it lies."""

    path: Path
    record: RunRecord


def run_cell(
    setup: Setup,
    seed: int,
    *,
    store: FeatureStore,
    pool: CrfPool,
    out: Path,
    crf_engine: str,
    command: str = "",
    notes: tuple[str, ...] = (),
    labels_used: tuple[str, ...] = (),
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    force: str = "",
) -> Outcome:
    """Run one cell and write its record, or return the record that is there.

    What a killed run of the same cell left is taken up. While another process runs the cell this one
    waits, and returns that one's record.

    Args:
        snapshot_seconds: how much training a kill may cost.
        force: an order (`record_files.new_order`) to run the cell from its beginning, whatever there is of
            it but what was begun under the same order; '' for none.

    Raises:
        UssBenchError: when the run fails, after a record with its reason was written.
    """
    workspace = Workspace.of(out, setup.cell(seed))
    base = RunRecord(
        schema=SCHEMA,
        id=setup.cell(seed).id,
        status="done",
        cell=setup.cell(seed),
        protocol=setup.protocol,
        classes=[ClassRow(name=row.name, colour=row.colour) for row in setup.dataset.classes],
        clusters=setup.params.get("clusters", 0),
        crf_engine=crf_engine,
        environment=environment(str(store.device)),
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=[*notes, *([f"preset {setup.preset}"] if setup.preset else [])],
        labels_used=list(labels_used),
    )
    with workspace.claim():
        if is_done(workspace.record, force):
            return Outcome(workspace.record, read_record(workspace.record))
        if force:
            workspace.begin(force)
        return _run_and_record(setup, base, store, pool, out, workspace.folder, snapshot_seconds)


def _run_and_record(
    setup: Setup,
    base: RunRecord,
    store: FeatureStore,
    pool: CrfPool,
    out: Path,
    folder: Path,
    snapshot_seconds: float,
) -> Outcome:
    clock = Clock()
    encoded_before, fallbacks_before = store.encoded, pool.fallbacks
    make_context = partial(
        RunContext,
        store=store,
        seed=base.cell.seed,
        scratch=folder,
        code=setup.code,
        clock=clock,
        snapshot_seconds=snapshot_seconds,
    )
    try:
        record, arrays, state = _run(setup, base, store, pool, clock, make_context)
    except Exception as error:
        reason = str(error) if isinstance(error, UssBenchError) else f"{type(error).__name__}: {error}"
        failed = replace(base, status="failed", reason=reason, phases=clock.phases)
        try:
            path, _ = write_record(out, failed, None, None)
            progress.log(f"The reason is kept in {path}.")
        except DataError as unwritten:  # a full disk may well be the reason, which is told all the same
            progress.log(f"The reason is not kept: {unwritten.what}")
        raise
    record = replace(record, phases=clock.phases, encoded_items=store.encoded - encoded_before)
    if fallbacks := pool.fallbacks - fallbacks_before:
        note = f"{fallbacks} images were refined in the main process because CRF workers were lost"
        record = replace(record, notes=[*record.notes, note])
    path, record = write_record(out, record, arrays, state)
    record_path(out, record.cell).with_suffix(".failed.json").unlink(missing_ok=True)
    return Outcome(path, record)


def _run(
    setup: Setup,
    base: RunRecord,
    store: FeatureStore,
    pool: CrfPool,
    clock: Clock,
    make_context: Callable[..., RunContext],
) -> tuple[RunRecord, Arrays, bytes]:
    items = Items.for_training(
        setup.train_images,
        setup.protocol,
        dataset_five_crop=setup.dataset_spec.five_crop,
        patch=setup.backbone.patch,
    )
    seed_everything(base.cell.seed)
    with blame(f"Method '{setup.spec.name}'", "training"):
        method = setup.make_method()
        context = make_context(method=method, items=items)
        with clock.phase("train"):
            method.train(setup.train_images, context)
        state = save(portable_state(method))

    evaluator = make_evaluator(setup, store, pool, clock)
    candidates, winner = _choose(setup, method, context, evaluator, clock)
    with clock.phase("evaluate"):
        last = evaluator.evaluate(method)
        selected = (
            last
            if winner is None
            else evaluator.evaluate(_restored(setup, winner[1].read_bytes(), store.device))
        )
    with clock.phase("monitor"):
        points = _monitor(setup, context, len(items), state)

    record = replace(
        base,
        clusters=last.clusters,
        images=len(evaluator),
        candidates=candidates,
        curves=context.curves,
        monitor=points,
        notes=[*base.notes, *context.resumed],
    )
    if warning := collapse_warning(points, last.clusters):
        progress.log(f"Warning: {warning}.")
        record = replace(record, notes=[*record.notes, warning])
    evaluations: dict[Checkpoint, Evaluation] = {"last": last}
    if setup.test_labels is not None:
        if winner is not None:
            evaluations["selected"] = selected
        record = replace(
            record,
            last=_result(None, last, setup.protocol),
            selected=_result(winner[0] if winner else None, selected, setup.protocol),
        )
    return record, _arrays(setup, evaluator, evaluations), state


def make_evaluator(setup: Setup, store: FeatureStore, pool: CrfPool, clock: Clock) -> Evaluator:
    """Build the evaluator of the test split, extracting its features if they are not there."""
    items = Items.for_evaluation(setup.test_images, setup.protocol, patch=setup.backbone.patch)
    with clock.phase("extract"):
        features = store.open(items, setup.spec.facets) if setup.spec.facets else None
    return Evaluator(
        method_name=setup.spec.name,
        inputs=setup.spec.inputs,
        items=items,
        features=features,
        labels=setup.test_labels,
        n_classes=len(setup.dataset.classes),
        protocol=setup.protocol,
        alpha=setup.alpha,
        pool=pool,
        device=store.device,
    )


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random, for methods that use the global generators."""
    torch.manual_seed(seed)
    np.random.seed(derive_seed(seed, "numpy") % 2**32)  # noqa: NPY002 - the global generator is the point
    random.seed(seed)


def _choose(
    setup: Setup, method: Method, context: RunContext, evaluator: Evaluator, clock: Clock
) -> tuple[list[Candidate], tuple[int, Path] | None]:
    """Score the offered checkpoints with labels; return them and the winner, None if it is the last."""
    if setup.test_labels is None or not context.offers:
        return [], None
    with clock.phase("candidates"):
        states = [_restored(setup, path.read_bytes(), context.device) for _, path in context.offers]
        counts = evaluator.patch_counts([*states, method])
    scores = [score_under(one, setup.protocol) for one in counts]
    steps = [step for step, _ in context.offers] + [None]
    candidates = [
        Candidate(step=step, accuracy=100 * one.accuracy, miou=100 * one.miou)
        for step, one in zip(steps, scores, strict=True)
    ]
    best = max(range(len(scores)), key=lambda index: (scores[index].miou, index))
    return candidates, (context.offers[best] if best < len(context.offers) else None)


def _monitor(setup: Setup, context: RunContext, n_items: int, state: bytes) -> list[MonitorPoint]:
    """Read the offered states and the last one on unlabelled training items; nothing if nothing was trained.

    Args:
        n_items: number of training items.
        state: at the end of training; it is left out where the last offer is the same.
    """
    if not context.offers and not context.curves:
        return []
    states: list[tuple[int | None, Callable[[], bytes]]] = [
        (step, path.read_bytes) for step, path in context.offers
    ]
    if not context.offers or context.offers[-1][1].read_bytes() != state:
        states.append((None, lambda: state))
    with blame(f"Method '{setup.spec.name}'", "monitoring"):
        methods = ((step, _restored(setup, read(), context.device)) for step, read in states)
        batches = [context.sample(setup.spec.inputs, indices) for indices in sample_batches(n_items)]
        return monitor(methods, batches, setup.alpha)


def _restored(setup: Setup, state: bytes, device: torch.device) -> Method:
    with blame(f"Method '{setup.spec.name}'", "loading a checkpoint"):
        method = setup.make_method()
        method.load_state_dict({name: value.to(device) for name, value in load(state).items()})
    return method


def _result(step: int | None, evaluation: Evaluation, protocol: Protocol) -> CheckpointResult:
    return CheckpointResult(
        step=step,
        raw=score_row(score_under(evaluation.raw, protocol)),
        crf=score_row(score_under(evaluation.crf, protocol)),
    )


def score_row(scores: Scores) -> ScoreRow:
    """Write scores in percent, rounded to what a pixel count can mean, NaN as None."""

    def percent(value: float) -> float | None:
        return None if math.isnan(value) else round(100 * float(value), 4)

    return ScoreRow(
        accuracy=percent(scores.accuracy),
        miou=percent(scores.miou),
        iou=[percent(value) for value in scores.iou],
        precision=[percent(value) for value in scores.precision],
        recall=[percent(value) for value in scores.recall],
        class_of_cluster=scores.class_of_cluster.tolist(),
        clusters_used=scores.clusters_used,
        pixels=scores.pixels,
    )


def _arrays(setup: Setup, evaluator: Evaluator, evaluations: dict[Checkpoint, Evaluation]) -> Arrays:
    counts: dict[tuple[Checkpoint, Refinement], np.ndarray] = {}
    maps: dict[tuple[Checkpoint, Refinement], np.ndarray] = {}
    for name, one in evaluations.items():
        maps[name, "raw"], maps[name, "crf"] = one.raw_maps, one.crf_maps
        if setup.test_labels is not None:
            counts[name, "raw"], counts[name, "crf"] = one.raw, one.crf
    return Arrays(
        image_ids=list(setup.test_images.ids),
        counts=counts,
        map_ids=[setup.test_images.ids[index] for index in evaluator.kept],
        maps=maps,
    )
