"""What an object leads to, without any tricks: attributes, containers, closures and bound methods."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType

import numpy as np


def reachable(*roots: object) -> Iterator[object]:
    """Yield everything that `roots` lead to, each once, themselves included.

    Attributes are followed in objects of uss_bench and of its plugins, whose modules the registry
    names so; other libraries' objects are yielded, and not entered.
    """
    todo, seen = list(roots), {}
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, Mapping):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            todo += thing
        elif isinstance(thing, MethodType):
            todo += [thing.__self__, thing.__func__]
        elif isinstance(thing, FunctionType):
            todo += [cell.cell_contents for cell in thing.__closure__ or ()]
            todo += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        elif isinstance(thing, functools.partial):
            todo += [thing.func, thing.args, thing.keywords]
        elif hasattr(thing, "__wrapped__"):  # what functools.cache leaves of a function
            todo.append(thing.__wrapped__)
        elif type(thing).__module__.startswith("uss_bench"):
            todo += [getattr(thing, name, None) for name in dir(thing) if not name.startswith("__")]


def tells(values: np.ndarray, label: np.ndarray) -> bool:
    """Whether an array tells a label map: same size, and every value stands for one class.

    Args:
        values: integers (H, W), or (H, W, 3) for colors.
        label: int16 (H, W), with at least two different values.
    """
    if values.shape[:2] != label.shape or values.dtype.kind not in "iu" or len(np.unique(label)) < 2:
        return False
    flat = values.reshape(label.size, -1)
    codes = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([codes, label.reshape(-1)]), axis=1)
    return bool(pairs.shape[1] == int(codes.max()) + 1 < label.size // 4)
