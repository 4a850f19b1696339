"""A method that reads several facets at once, on stored items and on views of its own, as EAGLE and HP do.

Codes of an image and of one of its nearest neighbours follow the correspondence of their frozen keys
(STEGO, EAGLE); codes of an image and of its blurred view agree, most of all where the class token
looks (Seong et al., "Hidden Positives", CVPR 2023). Prototypes follow the codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images
from uss_bench.geometry import square
from uss_bench.nn import Standardizer, cosine_logits

KEYS = ["keys@10", "keys@11", "keys@12"]
NEIGHBOURS = 3


@dataclass(kw_only=True)
class BlurredKeys:
    """A linear head on keys and colours, and K prototypes."""

    clusters: int
    dim: int = 16
    steps: int = 12
    side: int = 96
    """Side of the views; a multiple of the backbone's patch."""
    blur: float = 2.0
    """Largest radius of the blur, in pixels."""
    shift: float = 0.1
    """Correspondence below which codes are pushed apart."""
    lr: float = 1e-2

    net: nn.ModuleDict = field(init=False, repr=False)
    prototypes: nn.Parameter = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(KEYS)
        table = ctx.derived(f"knn@{NEIGHBOURS}", nearest_neighbours, ["keys@12"])["neighbours"]
        moments = [torch.cat(parts) for parts in zip(*map(features.moments, KEYS), strict=True)]
        self.build(len(moments[0]), ctx.device)
        self.net["standardizer"].fit(moments)
        optimizer = torch.optim.Adam([*self.net.parameters(), self.prototypes], lr=self.lr)
        draw = ctx.generator("pairs and blurs")
        for step in ctx.progress(range(1, self.steps + 1), total=self.steps, label="blurred-keys"):
            one = int(torch.randint(len(features), (1,), generator=draw))
            other = int(table[one, torch.randint(table.shape[1], (1,), generator=draw)])
            pair = {
                key: torch.stack([features[one][key], features[other][key]]).to(ctx.device) for key in KEYS
            }
            native = [data.image(features.source(index)[0]) for index in (one, other)]
            clear = self.embed({**pair, "image": as_batch([self.fit(n) for n in native], ctx.device)})

            radius = self.blur * torch.rand(2, generator=draw)
            views = [blurred(self.fit(n), float(r)) for n, r in zip(native, radius, strict=True)]
            images = as_batch(views, ctx.device)
            live = ctx.backbone(images, [*KEYS, "attention"])
            seen = self.embed({**live, "image": images})

            related = correspondence(clear, pair["keys@12"], self.shift)
            agreement = consistency(clear, seen, live["attention"])
            clustering = -cosine_logits(clear.detach(), self.prototypes).amax(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            (related + agreement + clustering).backward()
            optimizer.step()
            ctx.report(step, related=related, agreement=agreement, clustering=clustering)
            if step % 10 == 0:
                ctx.checkpoint(step)

    def build(self, channels: int, device: torch.device) -> None:
        head = nn.Conv2d(channels + 3, self.dim, 1)
        self.net = nn.ModuleDict({"standardizer": Standardizer(channels), "head": head}).to(device)
        self.prototypes = nn.Parameter(torch.randn(self.clusters, self.dim).to(device))

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Bring a native image to the field of view of the stored items (whole images, not five crops)."""
        return square(image, self.side, "bilinear")

    def embed(self, batch: Batch) -> Tensor:
        keys = self.net["standardizer"](torch.cat([batch[key] for key in KEYS], dim=1))
        colours = F.adaptive_avg_pool2d(batch["image"], keys.shape[2:]) - 0.5
        code: Tensor = self.net["head"](torch.cat([keys, colours], dim=1))
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.prototypes)

    def state_dict(self) -> dict[str, Tensor]:
        return {"prototypes": self.prototypes, **self.net.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.build(len(state["standardizer.mean"]), state["prototypes"].device)
        self.net.load_state_dict({name: value for name, value in state.items() if name != "prototypes"})
        self.prototypes = nn.Parameter(state["prototypes"])


def nearest_neighbours(features: Features) -> dict[str, np.ndarray]:
    """Return the indices of the items nearest to each, int64 (N, NEIGHBOURS), itself left out."""
    pooled = torch.stack([features[index]["keys@12"].mean(dim=(1, 2)) for index in range(len(features))])
    similarity = F.normalize(pooled, dim=1) @ F.normalize(pooled, dim=1).T
    similarity.fill_diagonal_(-1)
    return {"neighbours": similarity.topk(NEIGHBOURS, dim=1).indices.numpy()}


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def as_batch(images: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2) / 255


def correspondence(code: Tensor, keys: Tensor, shift: float) -> Tensor:
    """Return STEGO's loss between the two images of a pair: codes follow the frozen keys."""
    k, c = (F.normalize(maps, dim=1).flatten(2) for maps in (keys, code))
    return -((k[0].T @ k[1] - shift) * (c[0].T @ c[1]).clamp(min=0)).mean()


def consistency(clear: Tensor, seen: Tensor, attention: Tensor) -> Tensor:
    """Return the distance of codes of two views, weighted by what the class token attends to.

    The stored items are of the protocol's size and the views of the method's own, so that the codes
    of the items are brought to the grid of the views.
    """
    clear = F.interpolate(clear, seen.shape[2:], mode="bilinear", align_corners=False)
    distance = 1 - F.cosine_similarity(clear, seen, dim=1).flatten(1)
    weight = attention[:, :, 0, -distance.shape[1] :].mean(dim=1)
    return (weight * distance).sum(dim=1).div(weight.sum(dim=1)).mean()
