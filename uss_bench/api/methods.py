"""Methods that are defined where they are used: a class and a few keywords, and no folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uss_bench.plugins.in_place import method_plugin
from uss_bench.plugins.registry import Plugin


def method(entry: Callable[..., Any], *, name: str | None = None, **spec: Any) -> Plugin:
    """Return a class as a method that `uss_bench.run` takes.

    Examples:
        >>> class MyMethod:
        ...     def __init__(self, *, steps: int = 100, clusters: int): ...
        ...     ...  # train, embed, classify, state_dict, load_state_dict: see `uss_bench.contracts.Method`
        >>> (run,) = uss_bench.run(uss_bench.method(MyMethod, inputs=["tokens"]), "toy3")
        >>> uss_bench.load(run, method=MyMethod).predict("photo.jpg")

    The digest in its records is that of the class's source and of what it calls in the same file or notebook.
    It trains in this process, so nothing keeps it from what else is in memory; its records say so. For a
    board, make it a plugin: ``uss-bench new method``.

    Args:
        name: what records call it; None for the class's own name in small letters.
        spec: what a ``spec.toml`` would state: ``inputs``, ``alpha``, ``minimum``, ``ingredients``, …

    Raises:
        UsageError: for a wrong name or keyword, or a class whose source is not known.
    """
    return method_plugin(entry, name, **spec)
