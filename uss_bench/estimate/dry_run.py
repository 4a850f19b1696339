"""The estimate of a plan, as ``--dry-run`` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.device import pick_device
from uss_bench.estimate.costs import installed_costs, machine_of, measured_costs
from uss_bench.estimate.estimating import CellSize, estimate
from uss_bench.estimate.sizes import cell_size
from uss_bench.estimate.text import estimate_text
from uss_bench.provenance import environment
from uss_bench.setup import Setup


def plan_estimate(pending: Sequence[Setup], *, out: Path, device: str, budget: float) -> str:
    """Return what the cells that are still to run will take.

    Args:
        pending: the setup of every such cell; cells of one setup count once each.
        out: the results folder, whose own records are measurements too.
        device: as ``--device`` has it.
        budget: GB that one extraction may take on disk.
    """
    sizes: dict[int, CellSize] = {}
    for setup in pending:
        if id(setup) not in sizes:
            sizes[id(setup)] = cell_size(setup, budget=int(budget * 1e9))
    here = environment(str(pick_device(device)))
    costs = [*measured_costs([out]), *installed_costs()]
    machine = machine_of(here)
    found = estimate(
        [sizes[id(setup)] for setup in pending], costs, device=str(here["device"]), machine=machine
    )
    return estimate_text(found, machine)
