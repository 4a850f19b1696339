"""Features are extracted once for all methods, seeds and studies of a dataset: counted, not timed."""

from __future__ import annotations

import pytest
from fakes import FakePool

from uss_bench.runner import run_cell

METHODS = ["smooseg", "ds2dl"]
POINTS = [-0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5]

CELLS = {
    "two methods and five seeds": [(method, seed, {}) for method in METHODS for seed in range(5)],
    "seven points": [("smooseg", 0, {"b_inter": b}) for b in POINTS],
}


class Pool(FakePool):
    fallbacks = 0


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_only_the_first_cell_of_a_dataset_runs_the_backbone(run, cells):
    """Every cell has a store of its own, as if each ran in another process."""
    encoded = []
    for method, seed, params in cells:
        few = {"steps": 1, "batch_size": 4}
        setup = run.setup(method, backbone="patchstats", params=few | params)
        store, pool = run.store(setup), Pool()
        run_cell(setup, seed, store=store, pool=pool, out=run.results, crf_engine="lattice")
        encoded.append(store.encoded)
    assert encoded == [6 + 2 * 4] + [0] * (len(cells) - 1), "six training images, four test images, mirrors"
