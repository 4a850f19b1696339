"""Whole runs for tests: of a method in this process, and of Python code in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uss_bench.crf import CrfPool
from uss_bench.features import FeatureStore
from uss_bench.record_files import new_order
from uss_bench.registry import Registry
from uss_bench.runner import Outcome, run_cell
from uss_bench.setup import Request, Setup, resolve

PLUGINS = Path(__file__).parent / "plugins"

SMALL = "stego320@1[train_side=96,eval_side=96]"
"""The lineage's protocol, at sides that take milliseconds."""


@dataclass(frozen=True)
class Run:
    """Runs methods, keeping features and records under `folder`."""

    registry: Registry
    folder: Path

    def __call__(
        self, method: str, dataset: str = "tiny", *, seed: int = 0, budget: int = 10**9, **request: Any
    ) -> Outcome:
        """Run a method on a dataset, whatever there is of it.

        Args:
            budget: of the feature store; 0 streams.
            request: what `uss_bench.setup.Request` takes besides.
        """
        setup = self.setup(method, dataset, **request)
        store = self.store(setup, budget)
        with CrfPool(setup.protocol.crf, workers=1) as pool:
            return run_cell(
                setup, seed, store=store, pool=pool, out=self.results, crf_engine="lattice", force=new_order()
            )

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def setup(self, method: str, dataset: str = "tiny", **request: Any) -> Setup:
        return resolve(
            Request(method=method, dataset=dataset, **{"protocol": SMALL, **request}), self.registry
        )

    def store(self, setup: Setup, budget: int = 10**9) -> FeatureStore:
        return FeatureStore(
            # Apart, so that streaming finds nothing that storing has left.
            self.folder / ("features" if budget else "streamed"),
            setup.backbone,
            positions=setup.protocol.positions,
            device=torch.device("cpu"),
            dtype=setup.feature_dtype,
            budget=budget,
        )


def python(
    code: str, *arguments: object, cwd: Path, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
