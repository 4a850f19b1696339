"""Running a cell: prepare, train, choose, evaluate, record."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from safetensors.torch import save

from uss_bench.contracts import Method
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, UssBenchError, blame
from uss_bench.evaluation.evaluator import Evaluation
from uss_bench.experiment.evaluating import (
    choose_candidate,
    counts_and_maps,
    label_free_criteria,
    make_evaluator,
    matchings,
    monitor_points,
    scored_result,
)
from uss_bench.experiment.isolation import end_isolation, train
from uss_bench.experiment.reuse import stored_state
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.results.arrays import Arrays
from uss_bench.results.collection import Entry
from uss_bench.results.files import is_done, read_record, record_path, write_record
from uss_bench.results.provenance import environment
from uss_bench.results.record import (
    SCHEMA,
    Checkpoint,
    ClassRow,
    Phase,
    RunRecord,
)
from uss_bench.results.states import Trained
from uss_bench.runtime import progress, tracking
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import SNAPSHOT_SECONDS, RunContext, portable_state
from uss_bench.training.monitoring import collapse_warning
from uss_bench.training.workspace import Workspace

Obtain = Callable[[Callable[[], Trained]], Trained]
"""Calls what trains, or returns the state that is kept."""


def run_cell(
    setup: Setup,
    seed: int,
    *,
    store: FeatureStore,
    pool: CrfPool | None,
    out: Path,
    crf_engine: str,
    command: str = "",
    notes: tuple[str, ...] = (),
    labels_used: tuple[str, ...] = (),
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    force: str = "",
    reuse: bool = False,
) -> Entry:
    """Run one cell and write its record, or return the record that is there.

    What a killed run of the same cell left is taken up. While another process runs the cell this one
    waits, and returns that one's record.

    Args:
        pool: the CRF; None where the protocol has none.
        snapshot_seconds: how much training a kill may cost.
        force: a `new_rerun_token` to run the cell from its beginning, whatever there is of it but what was
            begun under the same token; '' for none.
        reuse: whether the trained state may come from the cache, and is kept there for others.

    Raises:
        UssBenchError: when the run fails, after a record with its reason was written.
    """
    setup = setup.beginning(seed, out)
    workspace = Workspace.of(out, setup.cell(seed))
    base = RunRecord(
        schema=SCHEMA,
        id=setup.cell(seed).id,
        status="done",
        cell=setup.cell(seed),
        protocol=setup.protocol,
        classes=[ClassRow(name=row.name, color=row.color) for row in setup.dataset.classes],
        clusters=setup.params.get("clusters", 0),
        crf_engine="" if pool is None else crf_engine,
        environment=environment(str(store.device)),
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=[*notes, *setup.notes, *([f"preset {setup.preset}"] if setup.preset else [])],
        labels_used=list(dict.fromkeys((*labels_used, *setup.labels_used))),
    )
    with workspace.claim():
        if is_done(workspace.record, force):
            return Entry(workspace.record, read_record(workspace.record))
        if force:
            workspace.begin(force)

        def obtain(train: Callable[[], Trained]) -> Trained:
            kept = stored_state(setup, seed, base.environment) if reuse else None
            if kept is None:
                return train()

            def checked() -> Trained:
                trained = train()
                now = stored_state(setup, seed, base.environment)
                is_same = now is not None and now.folder == kept.folder
                return replace(trained, may_be_kept=trained.may_be_kept and is_same)

            return kept.find_or_train(checked, record=base.id, scratch=workspace.folder, rerun_token=force)

        try:
            return _run_and_record(setup, base, store, pool, out, workspace.folder, snapshot_seconds, obtain)
        finally:
            end_isolation(setup)


def _run_and_record(
    setup: Setup,
    base: RunRecord,
    store: FeatureStore,
    pool: CrfPool | None,
    out: Path,
    folder: Path,
    snapshot_seconds: float,
    obtain: Obtain,
) -> Entry:
    clock = Clock()
    encoded_before = store.encoded
    make_context = partial(
        RunContext,
        store=store,
        seed=base.cell.seed,
        scratch=folder,
        clock=clock,
        snapshot_seconds=snapshot_seconds,
    )
    try:
        record, arrays, state = _run(setup, base, store, pool, clock, make_context, obtain)
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
    path, record = write_record(out, record, arrays, state)
    record_path(out, record.cell).with_suffix(".failed.json").unlink(missing_ok=True)
    return Entry(path, record)


def _run(
    setup: Setup,
    base: RunRecord,
    store: FeatureStore,
    pool: CrfPool | None,
    clock: Clock,
    make_context: Callable[..., RunContext],
    obtain: Obtain,
) -> tuple[RunRecord, Arrays, bytes]:
    with clock.phase("extract"):
        setup.check_maps()
    with clock.phase("check"):
        setup.check_scored_splits()
    items = setup.training_items()
    seed_everything(base.cell.seed)
    with blame(f"Method '{setup.spec.name}'", "training"):
        method = setup.make_method(setup.released, None if setup.released is None else store.device)
    context = make_context(method=method, items=items, test_items=setup.test_items())
    if setup.released is None:
        trained = obtain(partial(_train, setup, method, context, store, clock))
    else:
        state = save(portable_state(method))
        trained = Trained(
            state=state, offers=[], curves={}, notes=[], phase=Phase(seconds=0, peak_bytes=None)
        )
    if trained.source:
        clock.credit("train", trained.phase.seconds, trained.phase.peak_bytes)
        progress.log(f"Nothing is trained: the state is that of record {trained.source}.")
        tracking.report_curves(trained.curves)

    evaluator = make_evaluator(setup, store, pool, clock)
    # As whoever takes the state from the cache or from the record: from its bytes, never from memory.
    method = best = setup.make_method(trained.state, store.device)
    candidates, winner = choose_candidate(setup, method, trained, evaluator, store, clock)
    if winner is not None:
        best = setup.make_method(winner[1].read_bytes(), store.device)
    with clock.phase("evaluate"):
        last = evaluator.evaluate(method)
        selected = last if winner is None else evaluator.evaluate(best)
    with clock.phase("monitor"):
        points = monitor_points(setup, context, len(items), trained)
        criteria = label_free_criteria(setup, method, evaluator)

    record = replace(
        base,
        clusters=last.clusters,
        images=len(evaluator),
        candidates=candidates,
        curves=trained.curves,
        monitor=points,
        criteria=criteria,
        isolation=trained.isolation,
        notes=[
            *base.notes,
            *trained.notes,
            *_reused(trained),
            *_built_upon(setup),
            *["unlabeled test images were read in training"] * setup.reads_test_images,
        ],
    )
    if warning := collapse_warning(points, last.clusters):
        progress.log(f"Warning: {warning}.")
        record = replace(record, notes=[*record.notes, warning])
    evaluations: dict[Checkpoint, Evaluation] = {"last": last}
    if setup.test_labels is not None:
        if winner is not None:
            evaluations["selected"] = selected
        of_last, of_best = matchings(setup, [method, best], store, clock)
        record = replace(
            record,
            last=scored_result(None, last, setup.protocol, of_last),
            selected=scored_result(winner[0] if winner else None, selected, setup.protocol, of_best),
        )
    setup.check_unchanged()
    return record, counts_and_maps(setup, evaluator, evaluations), trained.state


def _train(setup: Setup, method: Method, context: RunContext, store: FeatureStore, clock: Clock) -> Trained:
    with blame(f"Method '{setup.spec.name}'", "training"):
        with clock.phase("train"):
            isolation = train(setup, method, context, store, clock)
        state = save(portable_state(method))
    return Trained(
        state=state,
        offers=context.offers,
        curves=context.curves,
        notes=context.resumed,
        phase=clock.phases["train"],
        isolation=isolation,
        may_be_kept=not context.has_moved,
    )


def _reused(trained: Trained) -> list[str]:
    return [f"trained state reused from record {trained.source}"] * bool(trained.source)


def _built_upon(setup: Setup) -> list[str]:
    """Say which records a run was built upon, with the digests of their states."""
    records = {name: read_record(path) for name, (path, _) in setup.places.items()}
    return [
        f"{name} is record {record.id} with state {record.state_sha256[:12]}"
        for name, record in records.items()
    ]
