"""Train `tinyvit`: DINO-style self-distillation between the tokens of two views of generated scenes.

    python benchmarks/tinyvit/pretrain.py --seed 0 --out tinyvit.safetensors

A student sees one view of a scene, some of its patches masked; a teacher, its moving average, sees the
other. The student's distribution over prototypes at each token is drawn to the teacher's at the same
place of the scene (Caron et al., 2021, on tokens in place of the class token, masked as in iBOT, Zhou et
al., 2022). The teacher's codes are balanced by Sinkhorn's algorithm towards a power law in place of equal
shares (Assran et al., 2023), because scenes are long-tailed. No label is drawn or read: scenes come from
numbers apart from all splits, and each seed draws its own.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import importlib
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from views import correspondence, cut, distort, draw_pair

from uss_bench.backbones.tinyvit.tinyvit import build
from uss_bench.plugins.registry import Registry

FIRST_SCENE = 1_000_000
"""Splits stay far below; toy27's `unlabeled_scene` counts from here too."""
SCENES = {"toy27": 2400, "toy3": 1200}
SIDE = 64
"""Side of a view, pixels: 8 × 8 tokens."""
BATCH = 32
PROTOTYPES = 128
EXPONENT = 0.7
"""Of the power law that the prototypes' shares follow."""
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.015
LEARNING_RATE, WARM_UP = 1.5e-3, 50
MASKED = 0.2
"""Mean share of masked patches; a view's own share is uniform from 0 to twice this."""
MEAN, STD = (
    torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)


class Distilled(nn.Module):
    """The trunk that is kept, with a head and a mask token that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = build(image_side=SIDE)
        dim = self.trunk.embed_dim
        self.mask = nn.Parameter(0.02 * torch.randn(dim))
        self.head = nn.Sequential(
            nn.Linear(dim, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64)
        )
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 64))

    def forward(self, views: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the cosine of each token's embedding with each prototype, (B, tokens, PROTOTYPES)."""
        trunk = self.trunk
        tokens = trunk.patch_embed(views)
        if masked is not None:
            tokens = torch.where(masked[..., None], self.mask.to(tokens.dtype), tokens)
        tokens = trunk.norm(trunk.blocks(trunk._pos_embed(tokens)))[:, trunk.num_prefix_tokens :]
        return F.normalize(self.head(tokens.float()), dim=-1) @ F.normalize(self.prototypes, dim=1).T


def distillation_loss(student: Tensor, teacher: Tensor, at: Tensor) -> Tensor:
    """Return the cross-entropy of the student's tokens with the teacher's codes at the same places.

    Args:
        student: cosines with the prototypes, (B, tokens, K).
        teacher: the same, of the other view of each scene.
        at: where the student's tokens lie in the teacher's view, (B, grid, grid, 2).
    """
    grid = at.shape[1]
    maps = teacher.transpose(1, 2).unflatten(2, (grid, grid))
    seen = F.grid_sample(maps, at, mode="bilinear", padding_mode="border", align_corners=False)
    visible = (at.abs() <= 1).all(dim=-1).flatten(1)
    codes = balanced(seen.flatten(2).transpose(1, 2)[visible])
    return F.cross_entropy(student[visible] / STUDENT_TEMPERATURE, codes)


def balanced(cosines: Tensor) -> Tensor:
    """Return codes (N, K) whose shares over the batch follow the power law: three Sinkhorn iterations."""
    shares = torch.arange(1, PROTOTYPES + 1, dtype=torch.float32) ** -EXPONENT
    log_codes = cosines / TEACHER_TEMPERATURE
    for _ in range(3):
        log_codes = log_codes - log_codes.logsumexp(dim=0) + (shares / shares.sum()).log()
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.exp()


def train(scenes: list[np.ndarray], steps: int, seed: int) -> nn.Module:
    """Return the teacher's trunk after `steps` steps on `scenes`, one uint8 (N, H, W, 3) array per kind."""
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    student = Distilled()
    teacher = copy.deepcopy(student).requires_grad_(False)
    matrices = [weight for weight in student.parameters() if weight.ndim > 1]
    vectors = [weight for weight in student.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.04}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    tokens = (SIDE // 8) ** 2
    sizes = torch.tensor([float(len(kind)) for kind in scenes])

    bar = tqdm(range(1, steps + 1), desc=f"seed {seed}")
    for step in bar:
        kind = scenes[int(torch.multinomial(sizes, 1, generator=draws))]
        chosen = torch.randint(len(kind), (BATCH,), generator=draws).numpy()
        images = torch.from_numpy(kind[chosen]).permute(0, 3, 1, 2).float() / 255
        pair = draw_pair(BATCH, images.shape[2], images.shape[3], draws)
        views = torch.cat([distort(cut(images, view, SIDE), draws) for view in pair])
        views = (views - MEAN) / STD
        share = 2 * MASKED * torch.rand(len(views), 1, generator=draws)
        masked = torch.rand(len(views), tokens, generator=draws) < share
        first, second = pair
        at = torch.cat([correspondence(first, second, SIDE // 8), correspondence(second, first, SIDE // 8)])

        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                target = teacher(views).float().roll(BATCH, dims=0)  # each view's partner
            cosines = student(views, masked).float()
        loss = distillation_loss(cosines, target, at)
        half_cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP) * (0.02 + 0.98 * half_cosine)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(teacher.parameters(), student.parameters(), strict=True):
                kept.lerp_(new, 0.03 * half_cosine)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return teacher.trunk


def draw(job: tuple[str, int]) -> np.ndarray:
    """Draw the image of one scene; its label is not kept."""
    name, number = job
    image: np.ndarray = generator(name).render(0, number)[0]
    return image


@functools.cache
def generator(name: str) -> Any:
    """Return the module that draws the scenes of a generated dataset."""
    entry = Registry().dataset(name)[1].load()
    return importlib.import_module(f"{entry.__module__.rpartition('.')[0]}.scenes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    options = parser.parse_args()

    scenes = []
    with ProcessPoolExecutor() as pool:
        for name, count in SCENES.items():
            numbers = range(FIRST_SCENE + options.seed * count, FIRST_SCENE + (options.seed + 1) * count)
            jobs = [(name, number) for number in numbers]
            drawn = tqdm(pool.map(draw, jobs, chunksize=32), total=count, desc=f"drawing {name}")
            scenes.append(np.stack(list(drawn)))
    torch.set_num_threads(1)  # so that the sums have one order, whatever the machine's cores
    trunk = train(scenes, options.steps, options.seed)
    save_file({key: value.half().contiguous() for key, value in trunk.state_dict().items()}, options.out)
    print(f"{options.out}: sha256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
