"""A study of seven values as one batched computation, in processes of one thread, and one after another.

::

    python benchmarks/batched_study.py [--repeats 3] [--threads N] [--small]

SmooSeg under seven values of b_inter and one seed: all see the same batches, partners and dropout masks,
so that their projectors can be trained as one batch of parameters over shared features (`torch.func.vmap`).
The other ways are the harness's own: one cell after another with all threads, and as many processes at a
time as there are threads, of one thread each, which share the memory map (``--jobs``). What is timed is a
training step of all seven. *Differs* is the largest difference of a parameter from the first way's after
the steps that were timed, over the largest parameter: 0 is the same to the last bit.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from measuring import arguments, begin, machine, method_module
from reference_step import CHANNELS, TimedContext, stored_noise
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from uss_bench.features.reader import FeatureReader
from uss_bench.files.atomic import cache_root
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.pairing import near_derangement
from uss_bench.runtime.malloc import disable_malloc_trim

VALUES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CLUSTERS, SEED = 27, 0


def learner(b_inter: float, batch_size: int, steps: int) -> Any:
    return method_module("smooseg").SmooSeg(
        clusters=CLUSTERS, b_inter=b_inter, batch_size=batch_size, steps=steps
    )


def one_after_another(
    features: FeatureReader, batch_size: int, steps: int
) -> tuple[list[float], list[Mapping[str, Tensor]]]:
    """Train every value by the method's own loop; return the seconds of each step of all, and the states."""
    taken, states = [], []
    for value in VALUES:
        context = TimedContext(features)
        torch.manual_seed(SEED)
        one = learner(value, batch_size, steps)
        one.train(None, context)
        taken.append(context.seconds)
        states.append(one.state_dict())
    return [sum(step) for step in zip(*taken, strict=True)], states


class Losses(nn.Module):
    """A learner's loss as a function of its parameters and of b_inter."""

    def __init__(self, one: Any) -> None:
        super().__init__()
        self.net = one.net
        self._learner = [one]  # a list, as it is no module

    def forward(self, f: Tensor, partner: Tensor, b_inter: Tensor) -> Tensor:
        one = self._learner[0]
        one.b_inter = b_inter
        return torch.stack(list(one.losses(f, partner).values())).sum()


def as_one_batch(
    features: FeatureReader, batch_size: int, steps: int
) -> tuple[list[float], list[Mapping[str, Tensor]]]:
    """The same as `one_after_another`, with the parameters of all values as one batch."""
    torch.manual_seed(SEED)
    one = learner(VALUES[0], batch_size, steps)
    one.net = one.make_net(CHANNELS).train()
    loss = Losses(one)
    parameters, buffers = stack_module_state([loss] * len(VALUES))  # type: ignore[arg-type]
    ours = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    kept = {name: value.detach().clone() for name, value in buffers.items()}
    shifts = torch.tensor(VALUES)

    def total(values: dict[str, Tensor], held: dict[str, Tensor], b: Tensor, f: Tensor, i: Tensor) -> Tensor:
        result: Tensor = functional_call(loss, (values, held), (f, i, b))
        return result

    of_all = vmap(total, in_dims=(0, 0, 0, None, None), randomness="same")
    student = ours["net.student"]
    rest = [value for name, value in ours.items() if name != "net.student"]
    optimizer = torch.optim.Adam(
        [{"params": rest, "lr": one.lr_projector}, {"params": [student], "lr": one.lr_prototypes}]
    )
    context = TimedContext(features)
    pairs = context.generator("pairs")
    batches = ShuffledBatches(len(features), batch_size, context.generator("batches"))
    for _ in context.steps(steps):
        f = one.net.standardizer(features.batch(next(batches))["tokens"])
        optimizer.zero_grad(set_to_none=True)
        of_all(ours, kept, shifts, f, near_derangement(len(f), pairs)).sum().backward()
        with torch.no_grad():
            kept["net.teacher"].lerp_(student, 1 - one.momentum)
        optimizer.step()
    state = {name.removeprefix("net."): value.detach() for name, value in {**ours, **kept}.items()}
    return context.seconds, [
        {name: value[row] for name, value in state.items()} for row in range(len(VALUES))
    ]


def _cell(folder: str, items: int, side: int, batch_size: int, steps: int, jobs: int, barrier: Any) -> None:
    """Train as one of `jobs` processes that do the same at once."""
    torch.set_num_threads(1)
    disable_malloc_trim()
    features = stored_noise(Path(folder), items, side)
    barrier.wait(120)
    torch.manual_seed(SEED)
    learner(VALUES[0], batch_size, steps).train(None, TimedContext(features))
    barrier.wait(600)


def in_processes(
    folder: Path, items: int, side: int, batch_size: int, steps: int, jobs: int, repeats: int
) -> float:
    """Return the seconds of a step of all values, `jobs` at a time with one thread each."""
    return statistics.median(
        (_rounds(folder, items, side, batch_size, steps + 1, jobs)
         - _rounds(folder, items, side, batch_size, 1, jobs)) / steps / jobs * len(VALUES)
        for _ in range(repeats)
    )  # fmt: skip


def _rounds(folder: Path, items: int, side: int, batch_size: int, steps: int, jobs: int) -> float:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(jobs + 1)
    given = (str(folder), items, side, batch_size, steps, jobs, barrier)
    workers = [spawn.Process(target=_cell, args=given) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    barrier.wait(120)
    start = time.perf_counter()
    barrier.wait(600)
    taken = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return taken


def differences(found: list[Mapping[str, Tensor]], expected: list[Mapping[str, Tensor]]) -> Iterator[float]:
    for one, other in zip(found, expected, strict=True):
        for name in other:
            yield ((one[name] - other[name]).abs().max() / other[name].abs().max().clamp(min=1e-30)).item()


def main() -> None:
    options = arguments(__doc__, repeats=3).parse_args()
    side, items, batch_size, steps, repeats = 224, 128, 32, 3, options.repeats
    if options.small:
        side, items, batch_size, steps, repeats = 32, 8, 4, 2, 1
    begin(options)
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root()) as name:
        folder = Path(name)
        features = stored_noise(folder, items, side)
        rows: dict[str, list[Any]] = {}
        for _ in range(repeats):
            sequential, expected = one_after_another(features, batch_size, steps + 1)
            batched, found = as_one_batch(features, batch_size, steps + 1)
            rows.setdefault("one after another", []).append(statistics.median(sequential[1:]))
            rows.setdefault("one batch", []).append(statistics.median(batched[1:]))
        jobs = options.threads
        parallel = in_processes(folder, items, side, batch_size, steps, jobs, repeats)
    base, batch = (statistics.median(rows[way]) for way in ("one after another", "one batch"))
    differs = max(differences(found, expected))
    table = [
        [f"one after another, {jobs} threads", base, 1.0, 0.0],
        ["one batch (vmap)", batch, base / batch, differs],
        [f"{jobs} processes of one thread", parallel, base / parallel, None],
    ]
    print(
        f"A training step of SmooSeg under {len(VALUES)} values of b_inter, B = {batch_size}, "
        f"{(side // 8) ** 2} patches, {machine()}; medians\n"
    )
    print(
        tabulate(
            table,
            headers=["way", "seconds", "times faster", "differs"],
            floatfmt=("", ".3f", ".2f", ".0e"),
            missingval="own rounding",
        )
    )


if __name__ == "__main__":
    main()
