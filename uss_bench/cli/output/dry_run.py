"""What ``--dry-run`` prints: the cells of a plan, and what those that are still to run will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from uss_bench.cli.output.plans import plan_table
from uss_bench.experiment.cells import Execution
from uss_bench.launch.planning import Planned, pending
from uss_bench.runtime.formatting import plural


def dry_run_text(cells: Sequence[Planned], execution: Execution) -> str:
    """Return the table of a plan's cells, and under it the estimate of those that are pending."""
    todo, out = pending(cells, execution), Path(execution.out)
    table = plan_table(cells, todo, out)
    if not todo:
        return table
    return f"{table}{_estimate(todo, execution, out)}"


def _estimate(todo: Sequence[Planned], execution: Execution, out: Path) -> str:
    """Return how many cells are not trained, and what all will take.

    Args:
        todo: the cells that are still to run.
        out: the results folder, whose own records are measurements too.
    """
    from uss_bench.cli.output.estimate import estimate_text
    from uss_bench.estimate.costs import installed_costs, machine_of, measured_costs
    from uss_bench.estimate.estimating import CellSize, estimate
    from uss_bench.estimate.sizes import Known, cell_size
    from uss_bench.experiment.reuse import stored_state, training_key
    from uss_bench.results.provenance import environment
    from uss_bench.runtime.device import pick_device

    here = environment(str(pick_device(execution.device)))
    here["threads"] = execution.threads or here["threads"]
    of_setup: dict[int, CellSize] = {}
    known: Known = {}
    sizes, trained = [], set[str]()
    for one in todo:
        setup, seed = one.setup, one.spec.seed
        if id(setup) not in of_setup:
            of_setup[id(setup)] = cell_size(setup, budget=int(execution.store_budget * 1e9), known=known)
        kept = stored_state(setup.beginning(seed, out), seed, here)
        key = training_key(setup, seed)
        is_trained = key in trained or (kept is not None and kept.exists(execution.force))
        trained.add(key)
        sizes.append(replace(of_setup[id(setup)], is_trained=is_trained))
    shared = sum(size.is_trained for size in sizes)
    what = f" {plural(shared, 'cell')} of them without training: a kept state serves." if shared else ""
    costs = [*measured_costs([out]), *installed_costs()]
    machine = machine_of(here)
    found = estimate(sizes, costs, device=str(here["device"]), machine=machine)
    return f"{what}\n\n{estimate_text(found, machine)}"
