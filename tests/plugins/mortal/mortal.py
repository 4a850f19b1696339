"""A method that dies in training as often as it is told to, to see that somebody notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


@dataclass(kw_only=True)
class Mortal:
    deaths: int
    """How often it kills its process; -1 to wait instead."""
    diary: str
    """A file that gets a line with the process's number at every start."""
    clusters: int = 2

    def train(self, data: Images, ctx: Context) -> None:
        diary = Path(f"{self.diary}-s{ctx.seed}")
        with diary.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if self.deaths < 0:
            time.sleep(600)
        if len(diary.read_text().splitlines()) <= self.deaths:
            print("farewell", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def embed(self, batch: Batch) -> Tensor:
        return batch["image"][:, : self.clusters]

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return {"clusters": torch.tensor(self.clusters)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to restore."""
