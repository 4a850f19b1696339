"""The versions that uss-bench is tested with, and whether they are the ones installed here.

``requirements.lock`` holds them, written by ``nox -s lock`` for Linux on x86-64. Where some of its packages
do not exist, such as those of CUDA, the others decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"


def lock_digest() -> str:
    """Return the lock's digest, twelve hex digits, if every package here has its version; else ''."""
    try:
        text = LOCK.read_text(encoding="utf-8")
    except OSError:
        return ""
    pinned = dict(line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    installed = dict(_closure("uss-bench"))
    if any(pinned.get(name) != version for name, version in installed.items()):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def locked() -> str:
    """Return what is installed here of what uss-bench needs, as the lines of a lock file."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(_closure("uss-bench")))


def _closure(root: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of everything installed that a distribution needs, directly or not."""
    seen = {canonicalize_name(root)}
    todo: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while todo:
        name, extras = todo.pop()
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            chosen = extras or {""}
            if needed.marker and not any(needed.marker.evaluate({"extra": one}) for one in chosen):
                continue
            called = canonicalize_name(needed.name)
            if called in seen:
                continue
            seen.add(called)
            try:
                yield called, metadata.version(called).partition("+")[0]
            except metadata.PackageNotFoundError:
                continue
            todo.append((called, frozenset(needed.extras)))
