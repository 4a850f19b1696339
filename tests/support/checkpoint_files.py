"""Checkpoints by the names and shapes of the published files, with random values."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torchvision

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


def resnet50_state() -> Tensors:
    """torchvision's names and shapes, with statistics that are not those of an untrained network."""
    torch.manual_seed(0)
    state: Tensors = torchvision.models.resnet50(weights=None).state_dict()
    for key in state:
        if key.endswith(("running_mean", "running_var")):
            state[key] = torch.rand(state[key].shape) + (0.5 if key.endswith("var") else -0.5)
    return state


def _zeros(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Expanded zeros, which take no room in a file."""
    return {key: torch.tensor(0.0).expand(shape) for key, shape in shapes.items()}


def _trunk(state: Tensors) -> Tensors:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _under(prefix: str, state: Tensors) -> Tensors:
    return {f"module.{prefix}.{key}": value for key, value in state.items()}


def moco_checkpoint(state: Tensors) -> dict[str, Any]:
    """What MoCo v2's training script saves; `state` is its query encoder, and the key encoder is zero."""
    head = {"0.weight": (2048, 2048), "0.bias": (2048,), "2.weight": (128, 2048), "2.bias": (128,)}
    query = _trunk(state) | _zeros({f"fc.{key}": shape for key, shape in head.items()})
    key = _zeros({key: tuple(value.shape) for key, value in query.items()})
    tensors = _under("encoder_q", query) | _under("encoder_k", key)
    tensors |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": tensors}


def slotcon_checkpoint(state: Tensors) -> dict[str, Any]:
    """What SlotCon's main_pretrain.py saves; `state` is its teacher, and the student is zero.

    The encoders have no head. Beside the tensors lie the script's options, as argparse leaves them.
    """
    mlp = {"0": (4096, 2048), "3": (4096, 4096), "6": (256, 4096)}
    predictor = mlp | {"0": (4096, 256)}
    norms = ("weight", "bias", "running_mean", "running_var")

    def head(layers: dict[str, tuple[int, int]], *kernel: int) -> Tensors:
        shapes: dict[str, tuple[int, ...]] = {}
        for number, shape in layers.items():
            shapes |= {f"mlp.{number}.weight": (*shape, *kernel), f"mlp.{number}.bias": shape[:1]}
        shapes |= {f"mlp.{number}.{part}": (4096,) for number in (1, 4) for part in norms}
        return _zeros(shapes)

    student = _zeros({key: tuple(value.shape) for key, value in _trunk(state).items()})
    tensors = _under("encoder_q", student) | _under("encoder_k", _trunk(state))
    for branch in ("q", "k"):
        tensors |= _under(f"projector_{branch}", head(mlp, 1, 1))
        tensors |= _under(f"grouping_{branch}", _zeros({"slot_embed.weight": (256, 256)}))
    tensors |= _under("predictor_slot", head(predictor)) | {"module.center": torch.zeros(1, 256)}
    return {
        "args": argparse.Namespace(arch="resnet50", dim_out=256, fp16=True, resume="", base_lr=1.0),
        "model": tensors,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(4)}}, "param_groups": [{"lr": 1e-6}]},
        "scheduler": {"last_epoch": 184800, "multiplier": 100},
        "epoch": 800,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }
