"""Exponential moving averages: how a teacher follows its student."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def ema_update(teacher: Tensor, student: Tensor, momentum: float) -> None:
    """Move `teacher` in place: momentum · teacher + (1 − momentum) · student, not normalized."""
    teacher.lerp_(student, 1 - momentum)
