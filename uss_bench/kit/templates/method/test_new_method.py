"""New method keeps the contract of a method, and its loss is what its formula says."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from new_method import neighbor_contrast

from uss_bench.kit import check_method
from uss_bench.plugins.registry import Registry


def test_every_check_of_a_method_holds() -> None:
    findings = check_method("new-method", Registry([Path(__file__).parent]))
    assert not [finding for finding in findings if finding.status == "failed"]


def test_the_contrast_is_the_cross_entropy_of_every_patch_in_turn() -> None:
    code, tau = torch.randn(3, 4, 2, 5, dtype=torch.float64), 0.2
    terms = []
    for image in range(3):
        for row in range(2):
            for column in range(4):
                patch = code[image, :, row, column]
                cosines = F.cosine_similarity(patch, code[:, :, row, column + 1], dim=1).tolist()
                weights = [math.exp(cosine / tau) for cosine in cosines]
                terms.append(-math.log(weights[image] / sum(weights)))
    expected = torch.tensor(terms, dtype=torch.float64).mean()
    torch.testing.assert_close(neighbor_contrast(code, tau), expected)
