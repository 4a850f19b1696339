"""Running cells and extractions in this process."""

from __future__ import annotations

from pathlib import Path

from uss_bench.crf import CrfPool
from uss_bench.errors import DataError
from uss_bench.experiment.cells import CellSpec, CellWork, Execution, ExtractionWork
from uss_bench.experiment.command_line import command_line
from uss_bench.experiment.isolation import IsolatingRegistry
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.plots.beside_record import draw_missing, draw_pictures
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import is_done, read_record, record_path
from uss_bench.runtime import progress
from uss_bench.runtime.device import pick_device
from uss_bench.runtime.malloc import disable_malloc_trim
from uss_bench.runtime.tracking import tracked


class CellRunner:
    """Runs cells one after another; a context manager.

    The feature store stays while the backbone is the same, and the CRF's threads while the protocol is.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._device = pick_device(execution.device)
        self._store: FeatureStore | None = None
        self._pool: CrfPool | None = None
        self._store_key: object = None
        self._pool_key: object = None
        disable_malloc_trim()

    def __enter__(self) -> CellRunner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def run(self, setup: Setup, spec: CellSpec, label: str) -> Entry:
        """Run a cell, unless it has a record, and draw its pictures.

        Raises:
            UssBenchError: when the run fails, after a record with its reason was written.
        """
        execution = self._execution
        path = record_path(Path(execution.out), setup.cell(spec.seed))
        if is_done(path, execution.force):
            progress.log(f"{label}: done before, see {path}")
            draw_missing(path, setup)
            return Entry(path, read_record(path))
        progress.log(f"{label}: {setup.spec.name} on {setup.dataset.name}")
        with tracked(execution.track, path.stem, setup.params):
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
                reuse=True,
            )
        draw_pictures(outcome.path, setup)
        return outcome

    def store(self, setup: Setup) -> FeatureStore:
        """Return the feature store of this setup's backbone."""
        key = (id(setup.backbone), setup.feature_dtype)
        if self._store is None or key != self._store_key:
            budget = int(self._execution.store_budget * 1e9)
            self._store, self._store_key = setup.open_store(self._device, budget=budget), key
        return self._store

    def _crf(self, setup: Setup) -> CrfPool | None:
        crf = setup.protocol.crf
        if crf is None:
            return None
        if self._pool is None or crf != self._pool_key:
            if self._pool is not None:
                self._pool.close()
            import numba  # noqa: F401 - a broken one is noticed here, and not after hours of training

            engine, workers = self._execution.crf_engine, self._execution.workers
            self._pool = CrfPool(crf, engine=engine, workers=workers)
            self._pool_key = crf
        return self._pool


def run_planned(work: CellWork) -> None:
    """Run the cell of a task.

    Raises:
        DataError: when it is not the cell that was planned.
        UssBenchError: when the run fails.
    """
    setup = resolve(work.cell, _registry(work.execution))
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
    setup = resolve(work.cell, _registry(work.execution))
    with CellRunner(work.execution) as runner:
        store = runner.store(setup)
        for items in (setup.training_items(), setup.evaluation_items()):
            store.extract(items, work.facets, work.part, work.parts)
    progress.log(f"{store.encoded:,} images went through {setup.backbone.name}")


def _registry(execution: Execution) -> Registry:
    registry = Registry(Path(folder) for folder in execution.plugins)
    return IsolatingRegistry(registry) if execution.isolate else registry
