"""Formulas of spec.toml compute, and nothing else."""

from __future__ import annotations

import pytest

from uss_bench.errors import ContractError
from uss_bench.kit.formula import value_of

NAMES = {"steps": 6, "batch_size": 4, "items": 3, "lr": 0.1}


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("steps", 6),
        ("2 * steps * batch_size", 48),
        ("steps * min(batch_size, items)", 18),
        ("(steps + 1) // 2 - items % 2", 2),
        ("max(1, items)", 3),
    ],
)
def test_formulas_are_arithmetic(formula, expected):
    assert value_of(formula, NAMES) == expected


@pytest.mark.parametrize(
    "formula",
    [
        "epochs",
        "lr",
        "steps ** 9",
        "steps / 2",
        "__import__('os')",
        "steps.real",
        "1 // 0",
        "(",
        "min()",
        "1.5",
    ],
)
def test_what_is_not_arithmetic_of_whole_numbers_is_refused(formula):
    with pytest.raises(ContractError, match="cannot be computed"):
        value_of(formula, NAMES)
