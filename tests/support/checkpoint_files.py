"""Checkpoints by the names and shapes of the published files, with random values."""

from __future__ import annotations

import torch

Tensors = dict[str, torch.Tensor]


def genuine(family: str, dim: int, patch: int, side: int) -> Tensors:
    """A checkpoint by the names and shapes of the published file, of random values."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, scale: float = 0.05) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    def affine(name: str, *shape: int, scale: float = 0.05) -> Tensors:
        return {f"{name}.weight": draw(*shape, scale=scale), f"{name}.bias": draw(shape[0])}

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": 1 + draw(dim), f"{name}.bias": draw(dim)}

    state = {"cls_token": draw(1, 1, dim, scale=0.5)}
    if side:
        state["pos_embed"] = draw(1, 1 + side**2, dim, scale=0.5)
    if family != "dino":
        state["mask_token"] = draw(1, dim)
    if family == "dinov2_reg":
        state["register_tokens"] = draw(1, 4, dim, scale=0.5)
    if family == "dinov3":
        state["storage_tokens"] = draw(1, 4, dim, scale=0.5)
        state["rope_embed.periods"] = 100.0 ** (torch.arange(16) / 16)
    state |= affine("patch_embed.proj", dim, 3, patch, patch)
    for block in (f"blocks.{i}" for i in range(12)):
        state |= norm(f"{block}.norm1") | affine(f"{block}.attn.qkv", 3 * dim, dim, scale=0.08)
        state |= affine(f"{block}.attn.proj", dim, dim) | norm(f"{block}.norm2")
        state |= affine(f"{block}.mlp.fc1", 4 * dim, dim) | affine(f"{block}.mlp.fc2", dim, 4 * dim)
        if family != "dino":
            state |= {f"{block}.ls{i}.gamma": draw(dim, scale=0.5) for i in (1, 2)}
        if family == "dinov3":
            state[f"{block}.attn.qkv.bias"] = torch.zeros(3 * dim)
            state[f"{block}.attn.qkv.bias_mask"] = torch.tensor([1.0, 0, 1]).repeat_interleave(dim)
    return state | norm("norm")
