"""Where an isolated method may read and write: code and the system, and nothing of the data."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uss_bench.errors import UsageError
from uss_bench.files.status import PACKAGE
from uss_bench.plugins.registry import Plugin

if TYPE_CHECKING:
    from uss_bench.experiment.setup import Setup

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys", "/nix/store"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys", "/proc/driver"),
)
"""What programs read of a Linux system, and where no data lie."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "shm")


def data_places(setup: Setup) -> list[Path]:
    """Return the files and folders that a dataset was given, and the folder of its plugin.

    Raises:
        UsageError: when the method's own code lies among the data.
    """
    texts = [*_strings(setup.asked.data), *setup.asked.aux.values()]
    given = [Path(text).expanduser() for text in texts]
    places = [one.resolve() for one in given if one.exists()]
    places.append(setup.registry.dataset(setup.asked.dataset)[1].folder)
    for place in places:
        for code in (setup.plugin.folder, PACKAGE):
            if code.resolve().is_relative_to(place):
                raise UsageError(
                    f"--isolate: {code} lies in {place}, which is kept from the method.",
                    hint="Move the data, or the code, to a folder of their own.",
                )
    return places


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def code_folders(*plugins: Plugin | Path) -> list[Path]:
    """Return where code lies: Python, its libraries, this package, plugins, and notes of installs."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = [Path(text) for text in sys.path if Path(text).name in ("site-packages", "dist-packages")]
    python = [Path(text) for text in (sys.prefix, sys.base_prefix) if text != "/"]
    own = [one if isinstance(one, Path) else one.folder for one in plugins]
    found = [Path(sysconfig.get_path(name)) for name in names]
    # that of an editable install lies beside its source
    installed = [one for at in (*map(Path, sys.path), PACKAGE.parent) for one in at.glob("*.egg-info")]
    return list(dict.fromkeys([*python, *found, *libraries, *installed, PACKAGE, *own]))


def device_files() -> list[Path]:
    return [Path("/dev", name) for name in _DEVICES] + sorted(Path("/dev").glob("nvidia*"))


def without(roots: Sequence[Path], hidden: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return paths that hold all of `roots` but what is hidden, and the folders that were taken apart."""
    kept: list[Path] = []
    apart: list[Path] = []
    todo = [one.resolve() for one in roots if one.exists()]
    while todo:
        path = todo.pop()
        if any(path.is_relative_to(one) for one in hidden if not _holds(one, path, roots)):
            continue
        if any(one.is_relative_to(path) for one in hidden) and path.is_dir():
            apart.append(path)
            todo += list(path.iterdir())
        else:
            kept.append(path)
    return kept, apart


def _holds(hidden: Path, path: Path, roots: Sequence[Path]) -> bool:
    """Whether a hidden place holds a root that was named itself, which is then meant to be read."""
    return any(path.is_relative_to(root) and root.is_relative_to(hidden) for root in map(Path.resolve, roots))


def count_outside(opened: Sequence[str], known: Sequence[Path]) -> int:
    """Return how many of these files lie in none of these folders, nor in those of the system."""
    folders = [one.resolve() for one in known] + [Path(text) for text in (*SYSTEM, "/proc", "/dev")]
    # the entry that an editable install leaves on the path is a name without a file
    return sum(
        not path.name.endswith("__path_hook__") and not any(path.is_relative_to(folder) for folder in folders)
        for path in map(Path, opened)
    )
