"""Whether a plugin's entry says what it takes: explicit keywords, of types that wrong values do not have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from uss_bench.errors import ContractError, UsageError
from uss_bench.kit.ladder import Verdict, failed, ok
from uss_bench.params import check_options

_EXPLICIT = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NONSENSE: tuple[Any, ...] = ("nonsense", -1.5, ["nonsense"], {"nonsense": ["nonsense"]})
"""Values of four JSON types: whatever an option takes, it must refuse some of them."""


def check_signature(entry: Any, *, skip: int = 0) -> Verdict:
    """Look at the options of an entry, after the first `skip` parameters, which the harness fills."""
    known = list(inspect.signature(entry).parameters.values())[skip:]
    for option in known:
        if option.kind not in _EXPLICIT:
            return failed(f"'{option}' takes anything", "Name every option, with its type.")
        if not any(_refused(entry, {option.name: value}, skip, undecided=True) for value in _NONSENSE):
            text = f"'{option.name}' takes a value of any type"
            return failed(text, f"Annotate it with what it is: {option.name}: int.")
        default = {option.name: _as_json(option.default)}
        has_default = option.default is not inspect.Parameter.empty
        if has_default and _refused(entry, default, skip, undecided=False):
            text = f"the default of '{option.name}', {option.default!r}, is not of its own type"
            return failed(text, "Correct the annotation: int | None = None, if None is meant.")
    return ok("")


def _as_json(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, enc_hook=str)
    except TypeError:
        return value


def _refused(entry: Any, options: Mapping[str, Any], skip: int, *, undecided: bool) -> bool:
    """Whether an option is refused; `undecided` where its type is none of JSON's, such as str | Path."""
    try:
        check_options(entry, options, "", "", skip=skip)
    except UsageError:
        return True
    except ContractError:
        return undecided
    return False
