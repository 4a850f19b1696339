"""Finding launchers by name: the built-in ones, and those of installed distributions."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uss_bench.errors import ContractError, UsageError, did_you_mean
from uss_bench.launch.launcher import Launcher
from uss_bench.plugins.params import check_options, required_options
from uss_bench.plugins.specs import decode_toml

GROUP = "uss_bench.launchers"
"""The entry points of other distributions, whose value is ``module:object``."""

BUILT_IN = {"local": "uss_bench.launch.local:Local", "slurm": "uss_bench.launch.slurm:Slurm"}


@dataclass(frozen=True)
class Found:
    """A launcher that can be made, not yet imported."""

    name: str
    entry: str
    origin: str

    def make(self, folder: Path, jobs: int | None, options: Mapping[str, Any]) -> Launcher:
        """Import the launcher and make it for a plan; see `Launcher` for the arguments.

        Raises:
            UsageError: for a wrong option, or what the launcher itself finds missing.
            ContractError: when it cannot be imported.
        """
        entry = self._load()
        checked = check_options(entry, options, f"Launcher '{self.name}'", "--launcher-set", skip=2)
        if missing := sorted(required_options(entry, skip=2) - checked.keys()):
            raise UsageError(
                f"Launcher '{self.name}' needs a value for {', '.join(missing)}.",
                hint=f"Use --launcher-set {missing[0]}=…",
            )
        launcher: Launcher = entry(folder, jobs, **checked)
        return launcher

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise what `make` would for wrong options, and make nothing."""
        check_options(self._load(), options, f"Launcher '{self.name}'", "--launcher-set", skip=2)

    def _load(self) -> Any:
        module, _, attribute = self.entry.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ContractError(
                f"Launcher '{self.name}' of {self.origin} cannot be imported: {error}.",
                hint=f"Its entry point says '{self.entry}'; reinstall or uninstall that distribution.",
            ) from error


def known_launchers() -> dict[str, Found]:
    """Return the launchers that can be seen, by name.

    Raises:
        UsageError: when two have the same name.
    """
    found = {name: Found(name, entry, "uss-bench") for name, entry in BUILT_IN.items()}
    for point in importlib.metadata.entry_points(group=GROUP):
        origin = point.dist.name if point.dist else "an installed distribution"
        one = Found(point.name, point.value, origin)
        first = found.setdefault(one.name, one)
        if first.entry != one.entry:
            raise UsageError(
                f"Two launchers are called '{one.name}': {first.entry} ({first.origin}) and {one.entry} "
                f"({one.origin}).",
                hint="Uninstall one of the distributions.",
            )
    return found


def find_launcher(name: str) -> Found:
    """Return the launcher of this name.

    Raises:
        UsageError: when there is none, with the closest names.
    """
    known = known_launchers()
    if name not in known:
        raise UsageError(f"There is no launcher '{name}'.", hint=did_you_mean(name, known))
    return known[name]


def launcher_options(config: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Join the options of a TOML file, a flat table, and those given one by one, which go before them.

    Raises:
        DataError: when the file is missing or malformed.
    """
    return {**(decode_toml(config, dict[str, Any]) if config is not None else {}), **given}
