"""Choosing the device of a run."""

from __future__ import annotations

import torch

from uss_bench.errors import UsageError


def pick_device(text: str) -> torch.device:
    """Return the device that `text` names; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        UsageError: when torch does not know the device or the machine does not have it.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--device {text} cannot be used: {reason}", hint="--device cpu works everywhere."
        ) from None
    return device
