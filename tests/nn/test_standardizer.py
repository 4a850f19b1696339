"""Features centered and scaled."""

from __future__ import annotations

import pytest
import torch
from literal_forms import features

from uss_bench.nn.standardizer import Standardizer


def test_a_standardizer_centers_and_scales_and_leaves_constant_channels_unscaled():
    f = 4 * features(images=9).float() + 2
    f[:, 0] = 7.0
    standardizer = Standardizer(6)
    torch.testing.assert_close(standardizer(f), f)
    standardizer.fit((f.mean((0, 2, 3)), f.std((0, 2, 3), correction=0)))
    result = standardizer(f)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    deviations = result.std((0, 2, 3), correction=0).tolist()
    assert deviations == pytest.approx([0, 1, 1, 1, 1, 1], abs=1e-5)
