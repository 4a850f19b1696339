"""A record evaluated again from its trained state."""

from __future__ import annotations

from pathlib import Path

from uss_bench.crf import CrfPool
from uss_bench.experiment.evaluating import evaluate_state
from uss_bench.experiment.restoring import restore
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.registry import Registry
from uss_bench.results.arrays import Arrays
from uss_bench.results.differences import Movement, movement
from uss_bench.results.files import read_arrays
from uss_bench.results.record import RunRecord


def verify(
    path: Path,
    record: RunRecord,
    setup: Setup,
    registry: Registry,
    store: FeatureStore,
    pool: CrfPool | None,
) -> Movement | None:
    """Evaluate the state of the record at `path`; None when every count of its last checkpoint is equal.

    Raises:
        UsageError: when the record has no trained state.
        DataError: when state, data or weights are missing or not those of the record.
    """
    restored = restore(path, record, setup, registry, store.device)
    stored = read_arrays(path, record)
    last = {key: counts for key, counts in stored.counts.items() if key[0] == "last"}
    before = Arrays(image_ids=stored.image_ids, counts=last, map_ids=[], maps={})
    return movement(before, evaluate_state(setup, restored.method, store, pool))
