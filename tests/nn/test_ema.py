"""The moving average against its formula."""

from __future__ import annotations

import torch

from uss_bench.nn.ema import ema_update


def test_a_teacher_keeps_momentum_of_itself_and_takes_the_rest_of_its_student():
    teacher, student = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0], requires_grad=True)
    kept = teacher
    ema_update(teacher, student, 0.75)
    torch.testing.assert_close(kept, torch.tensor([0.75 * 1 + 0.25 * 3, 0.75 * 2 - 0.25 * 2]))
    assert not kept.requires_grad
