"""A method with attention logits, a second view through the backbone, a feature pool and an EMA, as HP has.

The logits of all pairs of patches would take gigabytes, so that only what is needed of them is derived.
The second view is drawn from prefetched images and runs through the backbone in each step. The pool is part
of the loop's state, and so is the moving average.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Backbone, Batch, Context, Features, Images
from uss_bench.data.views import Photometric, Views, apply_photometric
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits

from .neighborhoods import compact


@dataclass(kw_only=True)
class HpLike:
    clusters: int
    dim: int = 8
    steps: int = 6
    batch_size: int = 3
    pool: int = 16
    """Patches in the pool."""
    renew: int = 2
    """Steps after which the pool is drawn anew."""
    momentum: float = 0.9
    lr: float = 1e-2

    net: nn.ModuleDict = field(init=False, repr=False)

    def bind(self, backbone: Backbone) -> None:
        head = nn.Conv2d(backbone.info.dim, self.dim, 1)
        self.net = nn.ModuleDict({"head": head, "prototypes": nn.Embedding(self.clusters, self.dim)})

    def train(self, data: Images, ctx: Context) -> None:
        features, images = ctx.features(["tokens"]), ctx.images()
        attention = ctx.derived_items(
            "attention neighborhoods",
            compact,
            ["tokens", "attention_logits_mean@-1"],
            params={"prefix": ctx.info.prefix, "low": 0.1, "high": 0.9},
        )
        jitter = Photometric(
            brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, gray=0.2, blur=0.5, kernel=5
        )
        views = Views(ctx.generator, "second view", photometric=jitter)
        net = self.net.to(ctx.device)
        slow = copy.deepcopy(net["head"]).requires_grad_(False)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        draws = ctx.generator("pool")
        pool = self.drawn_pool(features, draws).to(ctx.device)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        kept = {"net": net, "slow": slow, "optimizer": optimizer, "batches": batches, "pool": pool}
        for step in ctx.steps(self.steps, draws=draws, **kept):
            items = next(batches)
            tokens = features.batch(items)["tokens"]
            second = apply_photometric(images.batch(items) / 255, views.draw(step, items))
            code = net["head"](tokens)
            other = net["head"](ctx.backbone(second, ["tokens"])["tokens"])
            with torch.no_grad():
                for average, present in zip(slow.parameters(), net["head"].parameters(), strict=True):
                    average.lerp_(present, 1 - self.momentum)
                # A patch has hidden positives where it is closer to the batch than to the pool.
                threshold = cosine_logits(tokens, pool).amax(dim=1).flatten()
                unit = F.normalize(tokens, dim=1).transpose(0, 1).flatten(1)
                positive = (unit.T @ unit > threshold[:, None]).float()
                target = slow(tokens)
            mixed = mix(code, attention.batch("near", items), attention.batch("quantiles", items))
            terms = {
                "contrast": contrast(mixed, target, positive),
                "consistency": (1 - F.cosine_similarity(code, other, dim=1)).mean(),
                "clustering": -cosine_logits(code.detach(), net["prototypes"].weight).amax(dim=1).mean(),
            }
            optimizer.zero_grad(set_to_none=True)
            torch.stack([*terms.values()]).sum().backward()
            optimizer.step()
            if step % self.renew == 0:
                pool.copy_(self.drawn_pool(features, draws))  # in place: the loop keeps this tensor
            ctx.report(step, **terms, positives=positive.mean())
            if step % 3 == 0:
                ctx.checkpoint(step)

    def drawn_pool(self, features: Features, generator: torch.Generator) -> Tensor:
        """Return one random patch of random images, (pool, D)."""
        items = torch.randint(len(features), (self.pool,), generator=generator)
        tokens = features.batch(items)["tokens"].flatten(2)
        places = torch.randint(tokens.shape[2], (self.pool,), generator=generator)
        return tokens[torch.arange(self.pool), :, places]

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net["head"](batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net["prototypes"].weight)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["head.weight"].device)


def mix(code: Tensor, near: Tensor, quantiles: Tensor) -> Tensor:
    """Return codes mixed over their 3×3 neighborhood by attention clipped to its quantiles."""
    weight = (
        near.clamp(quantiles[:, :1], quantiles[:, 1:]).masked_fill(near.isinf(), -torch.inf).softmax(dim=1)
    )
    windows = F.unfold(code, 3, padding=1).unflatten(1, (code.shape[1], 9)).unflatten(3, code.shape[2:])
    return (windows * weight[:, None]).sum(dim=2)


def contrast(code: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Return the mean over patches of minus the mean log-probability of their positives."""
    z, slow = (F.normalize(one, dim=1).transpose(0, 1).flatten(1) for one in (code, target))
    log_share = torch.log_softmax(z.T @ slow / 0.5, dim=1)
    return -((log_share * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()
