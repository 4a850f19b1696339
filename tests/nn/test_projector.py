"""The lineage's head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from literal_forms import features
from torch import Tensor

from uss_bench.nn.projector import Projector


@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("silu", F.silu)])
def test_the_projector_adds_a_linear_and_a_nonlinear_path(activation, function):
    torch.manual_seed(0)
    projector = Projector(6, 4, activation=activation, dropout=0.2).eval()
    f = features(images=2).float()

    def dense(layer, values: Tensor) -> Tensor:
        return torch.einsum("od,bdhw->bohw", layer.weight[:, :, 0, 0], values) + layer.bias[:, None, None]

    first, _, last = projector.nonlinear
    expected = dense(projector.linear, f) + dense(last, function(dense(first, f)))
    torch.testing.assert_close(projector(f), expected)


def test_the_two_paths_drop_whole_channels_independently():
    torch.manual_seed(0)
    projector = Projector(64, 4, activation="silu", dropout=0.2).train()
    inputs = []
    for layer in (projector.linear, projector.nonlinear[0]):
        layer.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    projector(torch.ones(200, 64, 2, 2))
    masks = [value[..., 0, 0] == 0 for value in inputs]
    for value, mask in zip(inputs, masks, strict=True):
        torch.testing.assert_close(value, torch.where(mask, 0.0, 1 / 0.8)[..., None, None].expand_as(value))
    shares = [mask.float().mean().item() for mask in (*masks, masks[0] & masks[1])]
    assert shares == pytest.approx([0.2, 0.2, 0.04], abs=0.015)  # 12,800 draws: five deviations or more
