"""Plugins without a folder: a class or a function of a notebook or a script becomes one where it stands."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec

from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import Kind, MethodSpec, is_name

ORIGIN = "defined in Python"
_PLAIN = (bool, int, float, str, tuple, list, dict)


def method_plugin(entry: Callable[..., Any], name: str | None = None, **spec: Any) -> Plugin:
    """Return a method's class, or a function that makes one, as a plugin.

    Args:
        name: what records call it; None for the class's own name in small letters.
        spec: what its ``spec.toml`` would state: ``inputs``, ``alpha``, ``minimum``, … `inputs` is taken from
            the class where it has them, and is ``["tokens"]`` otherwise.

    Raises:
        UsageError: for a name or an entry of `spec` that is wrong, or an object whose source is not known.
    """
    called = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", getattr(entry, "__name__", "")).lower()
    if not is_name(called):
        raise UsageError(
            f"'{called}' is no name for a method.",
            hint="Small letters, digits, '-', '_' and '.': uss_bench.method(MyMethod, name='mine').",
        )
    spec.setdefault("inputs", list(getattr(entry, "inputs", ["tokens"])))
    stated = {"kind": "method", "name": called, "title": called, "summary": f"{called}, {ORIGIN}.", **spec}
    try:
        found = msgspec.convert({**stated, "entry": f"python:{entry.__qualname__}"}, MethodSpec)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"Method '{called}': {error}.", hint="docs/plugins.md lists what a spec states."
        ) from None
    return Plugin(found, Path(ORIGIN), ORIGIN, made=entry, sources=sources_of(entry))


def find_or_add(value: str | Plugin | Callable[..., Any], kind: Kind, registry: Registry) -> str:
    """Return a plugin's name; a plugin or a class that was defined in Python enters the registry.

    Raises:
        UsageError: for a plugin of another kind, or a name that is taken.
    """
    if isinstance(value, str):
        return value
    plugin = value if isinstance(value, Plugin) else method_plugin(value)
    if plugin.spec.group != kind:
        raise UsageError(f"'{plugin.name}' is one of the {plugin.spec.group}, not of the {kind}.")
    registry.add(plugin)
    return plugin.name


def origin_note(kind: Kind, name: str) -> str:
    """Return the note of records whose method or backbone was defined in Python."""
    return f"{kind[:-1]} '{name}' was {ORIGIN}"


def sources_of(entry: Callable[..., Any]) -> dict[str, str]:
    """Return the source of an object's functions, and of everything that these call in the same module.

    Constants that they read there count with their values, and modules of uss_bench that they use by name.

    Raises:
        UsageError: when Python does not know the source, as of what was typed at its prompt.
    """
    found: dict[str, str] = {}
    core: set[str] = set()
    todo: list[Any] = [entry]
    while todo:
        one = todo.pop()
        found |= _values(one)
        for name, function in _functions(one):
            if name in found:
                continue
            try:
                found[name] = _whole(textwrap.dedent(inspect.getsource(function)))
            except (OSError, TypeError):
                raise UsageError(
                    f"The source code of {name} is not known, and records state its digest.",
                    hint="Define it in a file or in a notebook.",
                ) from None
            for used in _names(function.__code__):
                value = function.__globals__.get(used)
                home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
                if str(home).partition(".")[0] == "uss_bench":
                    core.add(str(home))
                elif inspect.isfunction(value) or inspect.isclass(value):
                    if home == function.__module__:
                        todo.append(value)
                elif isinstance(value, _PLAIN):
                    found[f"{home}.{used}"] = f"{used} = {value!r}"
    if core:
        found["uss_bench"] = "\n".join(f"import {name}" for name in sorted(core))
    return found


def _functions(entry: Any) -> Iterator[tuple[str, FunctionType]]:
    """Yield functions by name: the object itself, or those of a class and of its bases in its module."""
    if not inspect.isclass(entry):
        yield entry.__qualname__, inspect.unwrap(entry)
        return
    for kind in entry.__mro__:
        if kind.__module__ != entry.__module__:
            continue
        for member in vars(kind).values():
            inner = getattr(member, "__func__", getattr(member, "fget", member))
            generated = hasattr(kind, "__dataclass_fields__") and inner.__module__ != kind.__module__
            if isinstance(inner, FunctionType) and not generated:
                yield inner.__qualname__, inspect.unwrap(inner)


def _values(entry: Any) -> dict[str, str]:
    """Return the plain values in a class's body, such as the defaults of a dataclass, as assignments."""
    if not inspect.isclass(entry):
        return {}
    return {
        f"{kind.__qualname__}.{name}": f"{name} = {value!r}"
        for kind in entry.__mro__
        if kind.__module__ == entry.__module__
        for name, value in vars(kind).items()
        if isinstance(value, _PLAIN) and not name.startswith("__")
    }


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _whole(source: str) -> str:
    """Return source that can be parsed; that of a lambda is the statement around it, or a piece of one."""
    try:
        ast.parse(source)
    except SyntaxError:
        return repr(source)
    return source
