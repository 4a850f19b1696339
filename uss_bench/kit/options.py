"""Whether a plugin's entry states what it takes: explicit keywords, of types that refuse wrong values."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from uss_bench.errors import ContractError, UsageError
from uss_bench.kit.checks import Finding, failed, ok
from uss_bench.plugins.params import check_options

_EXPLICIT = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NONSENSE: tuple[Any, ...] = ("nonsense", -1.5, ["nonsense"], {"nonsense": ["nonsense"]})
"""Values of four JSON types: whatever an option takes, it must refuse some of them."""


def check_signature(entry: Any, *, skip: int = 0) -> Finding:
    """Examine the options of an entry, after the first `skip` parameters, which the harness fills."""

    def refused(name: str, value: Any, undecided: bool) -> bool:
        try:
            check_options(entry, {name: value}, "", "", skip=skip)
        except UsageError:
            return True
        except ContractError:  # a type that JSON does not have, such as str | Path
            return undecided
        return False

    known = list(inspect.signature(entry).parameters.values())[skip:]
    for option in known:
        if option.kind not in _EXPLICIT:
            return failed(f"'{option}' takes anything", "Name every option, with its type.")
        if not any(refused(option.name, value, True) for value in _NONSENSE):
            todo = f"Annotate it with its type: {option.name}: int."
            return failed(f"'{option.name}' takes a value of any type", todo)
        if option.default is inspect.Parameter.empty:
            continue
        if refused(option.name, msgspec.to_builtins(option.default, enc_hook=str), False):
            text = f"the default of '{option.name}', {option.default!r}, is not of its own type"
            return failed(text, "Correct the annotation: int | None = None, if None is meant.")
    return ok(", ".join(option.name for option in known) or "none")
