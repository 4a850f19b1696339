"""Where a result comes from: the code that made it, the machine, and the state of the checkout."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import platform
import subprocess
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uss_bench.records import MethodId
    from uss_bench.registry import Registry

EVALUATOR_VERSION = 1
"""Raised whenever the harness itself (features, evaluation, CRF) changes what a run would give."""

_PACKAGE = Path(__file__).parent
_LIBRARIES = ("torch", "timm", "numpy", "scipy", "numba", "pillow")


def code_hash(folder: Path) -> str:
    """Return the digest of a method's code, twelve hex digits.

    It covers the Python files of the method's folder, the core modules that they import (and those
    that these import), and `EVALUATOR_VERSION`; so a commit elsewhere leaves records valid. Comments,
    docstrings and blank lines do not count.
    """
    files = sorted(folder.rglob("*.py"))
    digest = hashlib.sha256(f"evaluator {EVALUATOR_VERSION}".encode())
    for path in [*files, *sorted(_core_modules(files))]:
        digest.update(f"\0{path.name}\0{essential_source(path.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()[:12]


def current_codes(methods: Iterable[MethodId], registry: Registry) -> dict[str, str]:
    """Return the code hash that each method has now, by name; methods that are not at hand are left out."""
    names = {method.name for method in methods} & set(registry.names("methods"))
    return {name: code_hash(registry.find("methods", name).folder) for name in sorted(names)}


def is_stale(method: MethodId, codes: Mapping[str, str]) -> bool:
    """Whether the method's code has changed since; one that is not in `codes` has not, as far as known."""
    return codes.get(method.name, method.code) != method.code


def essential_source(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing spaces."""
    lines = source.split("\n")  # not splitlines, which also breaks at form feeds
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        is_text = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        if is_text and isinstance(node, ast.Expr):
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            head = lines[first].encode()[: node.col_offset].decode()
            tail = lines[last].encode()[node.end_col_offset :].decode()
            lines[first : last + 1] = [head + tail, *[""] * (last - first)]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _core_modules(files: list[Path]) -> set[Path]:
    """Return the files of uss_bench that `files` import, directly or through one another.

    The contracts and the errors are left out: they hold types and messages, which compute nothing.
    """
    found: set[Path] = set()
    todo = list(files)
    while todo:
        for name in _imports(todo.pop()):
            parts = name.split(".")[1:]
            for candidate in (
                _PACKAGE.joinpath(*parts).with_suffix(".py"),
                _PACKAGE.joinpath(*parts, "__init__.py"),
            ):
                skipped = candidate.name in ("contracts.py", "errors.py")
                if parts and candidate.is_file() and candidate not in found and not skipped:
                    found.add(candidate)
                    todo.append(candidate)
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("uss_bench"))
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("uss_bench")
            and not node.level
        ):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def environment(device: str) -> dict[str, Any]:
    """Describe machine and libraries, without names or paths that belong to its owner."""
    import torch

    return {
        "uss-bench": metadata.version("uss-bench"),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "git": git_state(),
    }


def git_state() -> str:
    """Return the commit of the checkout that runs, with ``+changes`` if it has any, or ''."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _PACKAGE.parent.resolve():
            return ""  # an installed copy that lies inside somebody else's repository
        commit = git("rev-parse", "HEAD")[:12]
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
