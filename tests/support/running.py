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

from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import new_rerun_token

PLUGINS = Path(__file__).parents[1] / "plugins"

SMALL = "stego320@2[eval_side=96]"
"""The lineage's protocol, at a side that takes milliseconds."""
SMALL_TRAINING = {"side": 96}
"""The same for training."""


@dataclass(frozen=True)
class Run:
    """Runs methods, keeping features and records under `folder`."""

    registry: Registry
    folder: Path

    def __call__(
        self,
        method: str,
        dataset: str = "tiny",
        *,
        seed: int = 0,
        budget: int = 10**9,
        snapshot_seconds: float = 60.0,
        force: str = "",
        **request: Any,
    ) -> Entry:
        """Run a method on a dataset, whatever there is of it.

        Args:
            budget: of the feature store; 0 streams.
            snapshot_seconds: how much training a kill may cost.
            force: a token, to go on with what was begun under the same one.
            request: what `uss_bench.experiment.cells.CellSpec` takes besides.
        """
        setup = self.setup(method, dataset, **request)
        store = self.store(setup, budget)
        with setup.open_crf(workers=1) as pool:
            return run_cell(
                setup,
                seed,
                store=store,
                pool=pool,
                out=self.results,
                crf_engine="lattice",
                snapshot_seconds=snapshot_seconds,
                force=force or new_rerun_token(),
            )

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def setup(self, method: str, dataset: str = "tiny", **request: Any) -> Setup:
        small = {"protocol": SMALL, "training": SMALL_TRAINING}
        return resolve(CellSpec(method=method, dataset=dataset, **{**small, **request}), self.registry)

    def store(self, setup: Setup, budget: int = 10**9) -> FeatureStore:
        return FeatureStore(
            # Apart, so that streaming finds nothing that storing has left.
            self.folder / ("features" if budget else "streamed"),
            setup.backbone,
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
