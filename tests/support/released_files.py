"""Official checkpoints with the genuine layout of keys, of random values and a small network."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def lineage_head(channels: int, dim: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.ModuleDict:
    """The released code's head: ``cluster1`` and ``cluster2``."""
    return nn.ModuleDict(
        {
            "cluster1": nn.Sequential(nn.Conv2d(channels, dim, 1)),
            "cluster2": nn.Sequential(
                nn.Conv2d(channels, channels, 1), activation(), nn.Conv2d(channels, dim, 1)
            ),
        }
    )


def head_code(head: nn.ModuleDict, features: Tensor) -> Tensor:
    code: Tensor = head["cluster1"](features) + head["cluster2"](features)
    return code


@contextmanager
def foreign_classes() -> Iterator[tuple[type, type]]:
    """Classes as OmegaConf's, under the names that its files state, and gone when the file is read."""
    package = types.ModuleType("omegaconf")
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        pass

    class AnyNode:
        pass

    for one in (DictConfig, AnyNode):
        one.__module__, one.__qualname__ = "omegaconf.dictconfig", one.__name__
        setattr(module, one.__name__, one)
    sys.modules |= {"omegaconf": package, "omegaconf.dictconfig": module}
    try:
        yield DictConfig, AnyNode
    finally:
        del sys.modules["omegaconf"], sys.modules["omegaconf.dictconfig"]


def save_lightning(path: Path, state: Tensors, **options: Any) -> Path:
    """Write a checkpoint as Lightning does: with optimizers, a callback and options of OmegaConf."""
    with foreign_classes() as (table, node):

        def value(one: Any) -> Any:
            kept = node()
            kept.__dict__ = {"_metadata": None, "_parent": None, "_val": one}
            return kept

        config = table()
        config.__dict__ = {"_metadata": None, "_content": {name: value(one) for name, one in options.items()}}
        torch.save(
            {
                "epoch": 0,
                "global_step": 5000,
                "pytorch-lightning_version": "1.5.10",
                "state_dict": state,
                "callbacks": {table: {"monitor": "test/cluster/mIoU", "best_model_score": torch.zeros(())}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
                "lr_schedulers": [],
                "hparams_name": "kwargs",
                "hyper_parameters": {"n_classes": 3, "cfg": config},
            },
            path,
        )
    return path
