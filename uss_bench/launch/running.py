"""Running cells and extractions in this process."""

from __future__ import annotations

from pathlib import Path

from uss_bench import progress
from uss_bench.allocation import keep_freed_memory
from uss_bench.crf import CrfPool
from uss_bench.device import pick_device
from uss_bench.errors import DataError
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.launch.work import CellSpec, CellWork, Execution, ExtractionWork, command_line
from uss_bench.pictures import draw_missing, draw_pictures
from uss_bench.record_files import is_done, read_record, record_path
from uss_bench.registry import Registry
from uss_bench.runner import Outcome, run_cell
from uss_bench.setup import Setup, resolve


class CellRunner:
    """Runs cells one after another; a context manager.

    The feature store stays while the backbone is the same, and the CRF's processes while the protocol is.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._device = pick_device(execution.device)
        self._store: FeatureStore | None = None
        self._pool: CrfPool | None = None
        self._store_key: object = None
        self._pool_key: object = None
        keep_freed_memory()

    def __enter__(self) -> CellRunner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def run(self, setup: Setup, spec: CellSpec, label: str) -> Outcome:
        """Run a cell, unless it has a record, and draw its pictures.

        Raises:
            UssBenchError: when the run fails, after a record with its reason was written.
        """
        execution = self._execution
        path = record_path(Path(execution.out), setup.cell(spec.seed))
        if is_done(path, execution.force):
            progress.log(f"{label}: done before, see {path}")
            draw_missing(path, setup)
            return Outcome(path, read_record(path))
        progress.log(f"{label}: {setup.spec.name} on {setup.dataset.name}")
        outcome = run_cell(
            setup,
            spec.seed,
            store=self.store(setup),
            pool=self._crf(setup),
            out=Path(execution.out),
            crf_engine=execution.crf_engine,
            command=command_line(spec, execution),
            notes=tuple(spec.notes),
            labels_used=tuple(spec.labels_used),
            snapshot_seconds=execution.snapshot_seconds,
            force=execution.force,
        )
        draw_pictures(outcome.path, setup)
        return outcome

    def store(self, setup: Setup) -> FeatureStore:
        """Return the feature store of this setup's backbone."""
        key = (id(setup.backbone), setup.protocol.positions, setup.feature_dtype)
        if self._store is None or key != self._store_key:
            budget = int(self._execution.store_budget * 1e9)
            self._store, self._store_key = setup.open_store(self._device, budget=budget), key
        return self._store

    def _crf(self, setup: Setup) -> CrfPool:
        if self._pool is None or setup.protocol.crf != self._pool_key:
            if self._pool is not None:
                self._pool.close()
            engine, workers = self._execution.crf_engine, self._execution.workers
            self._pool = CrfPool(setup.protocol.crf, engine=engine, workers=workers, log=progress.log)
            self._pool_key = setup.protocol.crf
        return self._pool


def run_planned(work: CellWork) -> None:
    """Run the cell of a task.

    Raises:
        DataError: when it is not the cell that was planned.
        UssBenchError: when the run fails.
    """
    setup = resolve(work.cell.request(), _registry(work.execution))
    found = setup.cell(work.cell.seed).id
    if found != work.id:
        raise DataError(
            f"This is not the cell that was planned: here its inputs give {found}, and not {work.id}.",
            hint="Code, data or weights have changed, or differ on this machine. Give the command again.",
        )
    with CellRunner(work.execution) as runner:
        runner.run(setup, work.cell, f"{setup.spec.name}, seed {work.cell.seed}")


def extract(work: ExtractionWork) -> None:
    """Extract the features of a task, or its share of them."""
    setup = resolve(work.cell.request(), _registry(work.execution))
    with CellRunner(work.execution) as runner:
        store = runner.store(setup)
        for items in item_sets(setup):
            store.extract(items, work.facets, work.part, work.parts)
    progress.log(f"{store.encoded:,} images went through {setup.backbone.name}")


def item_sets(setup: Setup) -> list[Items]:
    """Return the items that a method trains on, and those that it is evaluated on."""
    patch = setup.backbone.patch
    five_crop = setup.dataset_spec.five_crop
    return [
        Items.for_training(setup.train_images, setup.protocol, dataset_five_crop=five_crop, patch=patch),
        Items.for_evaluation(setup.test_images, setup.protocol, patch=patch),
    ]


def _registry(execution: Execution) -> Registry:
    return Registry(Path(folder) for folder in execution.plugins)
