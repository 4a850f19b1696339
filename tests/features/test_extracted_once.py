"""Features are extracted once for all methods, seeds and studies of a dataset: counted, not timed."""

from __future__ import annotations

from fakes import FakePool

from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.studies import read_study

METHODS = ["smooseg", "ds2dl"]
POINTS = """
name = "seven-points"
title = "Shift across images"
method = "smooseg"

[axis]
parameter = "b_inter"
values = [-0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5]
"""


def test_two_methods_five_seeds_and_a_study_of_seven_points_extract_once(run, tmp_path):
    """Every cell has a store of its own, as if each ran in another process."""
    (tmp_path / "points.toml").write_text(POINTS)
    study = read_study(tmp_path / "points.toml")
    few = {"steps": 1, "batch_size": 4}
    cells = [(method, seed, few) for method in METHODS for seed in range(5)]
    cells += [(study.plan.method, 0, study.params(row, few)) for row in study.plan.settings]
    encoded = []
    for method, seed, params in cells:
        setup = run.setup(method, backbone="patchstats", params=params)
        store, pool = run.store(setup), FakePool()
        run_cell(setup, seed, store=store, pool=pool, out=run.results, crf_engine="lattice")
        encoded.append(store.encoded)
    assert len(cells) == 17
    assert encoded == [6 + 2 * 4] + [0] * 16, "six training images, four test images and their mirrors"
