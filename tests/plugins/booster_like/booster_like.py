"""A method that builds upon another method's run, as PriMaPs-EM does upon STEGO's or HP's.

The base is a parameter. While this method trains, the base is loaded with its own state; afterwards that
state is part of this method's, so that prediction needs no record but its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images, Method, TrainedRun
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits


def mean_codes(item: Mapping[str, Tensor], *, base: TrainedRun) -> dict[str, np.ndarray]:
    """Return the mean code of one image, (d,): an artifact that depends on the base's state."""
    batch = {name: value[None] for name, value in item.items()}
    return {"mean": base.load(torch.device("cpu")).embed(batch)[0].mean((1, 2)).numpy()}


@dataclass(kw_only=True)
class BoosterLike:
    clusters: int
    base: TrainedRun | None = None
    steps: int = 4
    batch_size: int = 3
    lr: float = 1e-2

    learned: Method = field(init=False, repr=False)
    prototypes: Tensor = field(init=False, repr=False)

    @property
    def inputs(self) -> list[str]:
        return ["tokens"] if self.base is None else list(self.base.inputs)

    def train(self, data: Images, ctx: Context) -> None:
        if self.base is None:
            raise ValueError("this method needs a base: --set base=METHOD")
        self.learned = self.base.load(ctx.device)
        features = ctx.features(self.inputs)
        means = ctx.derived_items("mean codes", mean_codes, self.inputs, params={"base": self.base})
        first = ctx.generator("prototypes")
        mean = means.batch("mean", range(len(features))).mean(dim=0)
        noise = torch.randn(self.clusters, len(mean), generator=first).to(ctx.device)
        prototypes = self.prototypes = (mean + mean.std() * noise).requires_grad_()
        optimizer = torch.optim.Adam([prototypes], lr=self.lr)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, prototypes=prototypes, optimizer=optimizer, batches=batches):
            with torch.no_grad():
                code = self.embed(features.batch(next(batches)))
            loss = -cosine_logits(code, prototypes).amax(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ctx.report(step, loss=loss)

    def embed(self, batch: Batch) -> Tensor:
        return self.learned.embed(batch)

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.prototypes)

    def state_dict(self) -> dict[str, Tensor]:
        base = {f"base.{name}": value for name, value in self.learned.state_dict().items()}
        return {"prototypes": self.prototypes, **base}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert self.base is not None, "a state was trained upon a base"
        self.prototypes = state["prototypes"]
        self.learned = self.base.make()
        base = {name.removeprefix("base."): value for name, value in state.items() if name != "prototypes"}
        self.learned.load_state_dict(base)
