"""Seeds: one number per run, from which every generator is derived."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *key: int) -> int:
    """Return a 63-bit seed that is independent for each purpose and key."""
    text = "/".join(map(str, (seed, purpose, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random, for methods that use the global generators."""
    torch.manual_seed(seed)
    np.random.seed(derive_seed(seed, "numpy") % 2**32)  # noqa: NPY002 - the global generator is the point
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """Return the states of the global generators, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - methods may use the global generator
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def restore_random(state: Mapping[str, Any]) -> None:
    """Bring the global generators into a state that `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
