"""Arithmetic on a method's parameters, as spec.toml states the batches and images of training."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

from uss_bench.errors import ContractError

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS = {"min": min, "max": max}


def value_of(formula: str, names: Mapping[str, Any]) -> int:
    """Return the value of a formula of whole numbers: ``steps * min(batch_size, items)``.

    Args:
        formula: names, numbers, ``+ - * // %``, ``min`` and ``max``. No code is run.

    Raises:
        ContractError: for anything else, or a name that is not among `names`.
    """
    try:
        value = _value(ast.parse(formula, mode="eval").body, names)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError) as error:
        raise ContractError(f"The formula '{formula}' of [check] cannot be computed: {error}.") from None
    return value


def _value(node: ast.expr, names: Mapping[str, Any]) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.Name(id=name) if isinstance(names.get(name), int):
            return int(names[name])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return int(_OPERATORS[type(op)](_value(left, names), _value(right, names)))
        case ast.Call(func=ast.Name(id=name), args=values, keywords=[]) if name in _FUNCTIONS and values:
            return int(_FUNCTIONS[name](_value(one, names) for one in values))
    raise ValueError(f"'{ast.unparse(node)}' is not a whole number, a parameter or an operation")
