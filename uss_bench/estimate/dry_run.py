"""What ``--dry-run`` prints: the cells of a plan, and what those that are still to run will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.device import pick_device
from uss_bench.estimate.costs import installed_costs, machine_of, measured_costs
from uss_bench.estimate.estimating import CellSize, estimate
from uss_bench.estimate.sizes import cell_size
from uss_bench.estimate.text import estimate_text
from uss_bench.launch.planning import Planned
from uss_bench.launch.start import pending
from uss_bench.launch.tables import plan_table
from uss_bench.launch.work import Execution
from uss_bench.provenance import environment
from uss_bench.setup import Setup


def dry_run_text(cells: Sequence[Planned], execution: Execution) -> str:
    """Return the table of a plan's cells, and under it the estimate."""
    todo, out = pending(cells, execution), Path(execution.out)
    # A cell may stand under two settings, and runs once.
    setups = {one.cell.id: one.setup for one in todo}
    found = plan_estimate(
        list(setups.values()), out=out, device=execution.device, budget=execution.store_budget
    )
    return f"{plan_table(cells, todo, out)}\n\n{found}" if todo else plan_table(cells, todo, out)


def plan_estimate(todo: Sequence[Setup], *, out: Path, device: str, budget: float) -> str:
    """Return what the cells that are still to run will take.

    Args:
        todo: the setup of every such cell; cells of one setup count once each.
        out: the results folder, whose own records are measurements too.
        device: as ``--device`` has it.
        budget: GB that one extraction may take on disk.
    """
    sizes: dict[int, CellSize] = {}
    for setup in todo:
        if id(setup) not in sizes:
            sizes[id(setup)] = cell_size(setup, budget=int(budget * 1e9))
    here = environment(str(pick_device(device)))
    costs = [*measured_costs([out]), *installed_costs()]
    machine = machine_of(here)
    found = estimate([sizes[id(setup)] for setup in todo], costs, device=str(here["device"]), machine=machine)
    return estimate_text(found, machine)
