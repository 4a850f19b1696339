"""What the benchmarks of training share: timing in turns, counting bytes, two losses side by side.

No script. Works are timed in turns, one after another in each round, so that whatever else the machine
does slows all alike; a ratio is that of the medians over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from uss_bench.plugins.registry import Registry
from uss_bench.runtime.cores import whole_cores
from uss_bench.runtime.malloc import disable_malloc_trim

EXACT_IMAGES = 4
"""Batch on which losses are compared in float64; their memory, not their time, forbids more."""
HEADERS = ("ours, s", "literal, s", "times faster", "ours, MB", "literal, MB", "times less")
HEADERS += ("Δ loss", "Δ gradient")
FORMATS = (".3f", ".3f", ".1f", ".1f", ".1f", ".1f", ".0e", ".0e")

Draw = Callable[[int, torch.dtype], tuple[Tensor, ...]]
Loss = Callable[..., Tensor]


def arguments(doc: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """Return a parser with what every script takes: --repeats, --threads and --small."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds of timing, after one uncounted")
    parser.add_argument("--threads", type=int, default=whole_cores(), help="threads of torch, on both sides")
    parser.add_argument("--small", action="store_true", help="one round at tiny size: does it run at all")
    parser.add_argument(
        "--release",
        action="store_true",
        help="hand freed memory back, which the harness does not",
    )
    return parser


def begin(options: argparse.Namespace) -> None:
    """Set up torch and memory, for both sides, as options say and as the harness does."""
    torch.set_num_threads(options.threads)
    if not options.release:
        disable_malloc_trim()


def machine() -> str:
    """Return what a figure depends on: processor, cores, threads and versions."""
    return (
        f"{platform.machine()}, {whole_cores()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def show(
    title: str, rows: Sequence[Sequence[object]], headers: Sequence[str], formats: Sequence[str]
) -> None:
    """Print a table under what it is of and where it was measured."""
    print(f"{title}, {machine()}; medians\n")
    print(tabulate(rows, headers=headers, floatfmt=formats), flush=True)


def method_module(name: str) -> ModuleType:
    """Return the module of a built-in method, as the registry imports it."""
    return sys.modules[Registry().find("methods", name).load().__module__]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each work over `repeats` rounds, after a round that is not counted."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in works}


def peak_rate(dim: int = 512) -> float:
    """Return the GFLOP/s of one large product, the best of five: what the machine reaches at most."""
    one, other = torch.rand(784, dim), torch.rand(dim, 12544)
    return 2 * 784 * dim * 12544 / 1e9 / min(seconds(lambda: one @ other) for _ in range(5))


def products(work: Callable[[], object]) -> float:
    """Return the GFLOP of a work's matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that torch's CPU allocator lent to `work` at one time.

    The profiler records every allocation and release, those inside kernels included. What was allocated
    before counts for nothing, and the process's own memory, which hardly ever shrinks, is not asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        # One cycle, so there are no others to accumulate; without the flag some versions warn of that.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            work()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    return max(itertools.accumulate(e["args"]["Bytes"] for e in changes), default=0)


def both_passes(loss: Loss, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a loss and its gradients for those inputs that want one."""
    value = loss(*inputs)
    return value.detach(), torch.autograd.grad(value, [one for one in inputs if one.requires_grad])


def compare_losses(ours: Loss, literal: Loss, draw: Draw, *, images: int, repeats: int) -> list[float]:
    """Return the columns of `HEADERS` for one loss in two forms, forward and backward.

    Time and bytes are those of float32. Differences are taken in float64 on a smaller batch: that of the
    loss over its size, and the largest among gradients over the largest gradient of that input.

    Args:
        ours, literal: the two forms of the loss.
        draw: makes their inputs, for a number of images and a dtype.
        images: B.
    """
    inputs = draw(images, torch.float32)
    works = {
        "ours": lambda: both_passes(ours, inputs),
        "literal": lambda: both_passes(literal, inputs),
    }
    taken = in_turns(works, repeats)
    held = {name: peak_bytes(work) / 1e6 for name, work in works.items()}
    exact = draw(min(images, EXACT_IMAGES), torch.float64)
    (value, slopes), (expected, wanted) = (both_passes(form, exact) for form in (ours, literal))
    return [
        *(taken["ours"], taken["literal"], taken["literal"] / taken["ours"]),
        *(held["ours"], held["literal"], held["literal"] / held["ours"]),
        relative(value, expected),
        max(relative(one, other) for one, other in zip(slopes, wanted, strict=True)),
    ]


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, over the largest size of what is expected."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
