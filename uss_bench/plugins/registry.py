"""Finding plugins by name, without importing them until they are used.

A plugin is a folder with a ``spec.toml`` (see `uss_bench.plugins.specs`). Folders come from three places,
in this order:

1. ``--plugin PATH`` and the environment variable ``USS_BENCH_PLUGINS`` (paths joined by ``:``, or
   ``;`` on Windows); a path is a plugin's folder, or a folder of such folders;
2. installed distributions, through the entry points ``uss_bench.methods``, ``uss_bench.datasets``
   and ``uss_bench.backbones``, whose value is the package that holds the ``spec.toml``;
3. the folders that come with uss-bench.

The same name twice is an error that names both folders, unless the spec that comes first says
``overrides = true``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uss_bench.errors import ContractError, UsageError, did_you_mean
from uss_bench.files.bundled import bundled_folders
from uss_bench.plugins.specs import (
    BackboneSpec,
    DatasetSpec,
    Ingredient,
    Kind,
    MethodSpec,
    PluginSpec,
    read_spec,
)

ENVIRONMENT_VARIABLE = "USS_BENCH_PLUGINS"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that was found: what its spec says, where it lies and who brought it."""

    spec: PluginSpec
    folder: Path
    origin: str
    made: Any = None
    """The object, where it was defined in Python and not in a folder; see `uss_bench.plugins.in_place`."""
    sources: Mapping[str, str] | None = None
    """The source code of `made`, and of what that calls in its own module, by name."""

    @property
    def name(self) -> str:
        return self.spec.name

    def load(self, entry: str = "") -> Any:
        """Import the plugin's entry, or another one of its folder, and return the object it names.

        Raises:
            ContractError: when the file or the object is missing, or the import fails.
        """
        if self.made is not None:
            return self.made
        entry = entry or self.spec.entry
        module_name, _, attribute = entry.partition(":")
        package = _load_package(self)
        try:
            module = importlib.import_module(f"{package}.{module_name}")
        except (Exception, SystemExit) as error:
            from uss_bench.runtime.installation import import_fault

            if (fault := import_fault(error)) is not None:
                raise fault from error
            raise ContractError(
                f"{self.spec.group[:-1]} '{self.name}' ({self.folder}) cannot be imported: "
                f"{type(error).__name__}: {error}.",
                hint=f"Its spec.toml says entry = '{entry}'.",
            ) from error
        try:
            return getattr(module, attribute)
        except AttributeError:
            raise ContractError(
                f"{self.folder / module_name}.py has no '{attribute}', which its spec.toml names as entry."
            ) from None


class Registry:
    """All plugins that can be seen, by kind and name.

    Args:
        extra: folders given on the command line; they come before the environment variable's.
    """

    def __init__(self, extra: Iterable[Path] = ()) -> None:
        self.extra = [Path(path) for path in extra]
        self._found: dict[Kind, dict[str, Plugin]] = {}

    def add(self, plugin: Plugin) -> None:
        """Add a plugin that was defined in Python.

        Raises:
            UsageError: when there is one of this name already.
        """
        kind = plugin.spec.group
        if plugin.name in self._plugins(kind):
            raise UsageError(
                f"There is a {kind[:-1]} called '{plugin.name}' already.", hint="Give it another name: name=…"
            )
        self._found[kind][plugin.name] = plugin

    def names(self, kind: Kind) -> list[str]:
        return sorted(self._plugins(kind))

    def all(self, kind: Kind) -> list[Plugin]:
        return [self._plugins(kind)[name] for name in self.names(kind)]

    def find(self, kind: Kind, name: str) -> Plugin:
        """Return the plugin of this kind and name.

        Raises:
            UsageError: when there is none, with the closest names.
        """
        try:
            return self._plugins(kind)[name]
        except KeyError:
            hint = did_you_mean(name, self.names(kind))
            if kind == "datasets":
                hint += " Images of your own: --dataset folder --root DIR."
            raise UsageError(f"There is no {kind[:-1]} '{name}'.", hint=hint) from None

    def method(self, name: str) -> tuple[MethodSpec, Plugin]:
        plugin = self.find("methods", name)
        assert isinstance(plugin.spec, MethodSpec)
        return plugin.spec, plugin

    def dataset(self, name: str) -> tuple[DatasetSpec, Plugin]:
        plugin = self.find("datasets", name)
        assert isinstance(plugin.spec, DatasetSpec)
        return plugin.spec, plugin

    def backbone(self, name: str) -> tuple[BackboneSpec, Plugin]:
        """Return the spec of the backbone `name`, and the plugin whose code it runs: itself or its adapter.

        Raises:
            UsageError: when there is no such backbone.
            ContractError: when its adapter does not exist, or has no code of its own.
        """
        plugin = self.find("backbones", name)
        spec = plugin.spec
        assert isinstance(spec, BackboneSpec)
        if not spec.adapter:
            return spec, plugin
        adapter = self._plugins("backbones").get(spec.adapter)
        if adapter is None or not adapter.spec.entry:
            raise ContractError(
                f"The adapter '{spec.adapter}' of backbone '{name}' ({plugin.folder}) "
                "is no backbone with an entry."
            )
        return spec, adapter

    def titles(self) -> dict[str, str]:
        """Return what people call methods, by name; ``{backbone}`` stands for the backbone of a run."""
        return {plugin.name: plugin.spec.title for plugin in self.all("methods")}

    def ingredients(self, method: str, backbone: str) -> tuple[Ingredient, ...]:
        """Return what else than unlabeled pixels a method and a backbone are made of, as far as is known."""
        found = [self._plugins("methods").get(method), self._plugins("backbones").get(backbone)]
        specs = [plugin.spec for plugin in found if plugin is not None]
        stated = {
            one for spec in specs if isinstance(spec, MethodSpec | BackboneSpec) for one in spec.ingredients
        }
        return tuple(sorted(stated))

    def floors(self) -> frozenset[str]:
        """Return the names of the methods that look at no feature."""
        specs = [one.spec for one in self.all("methods")]
        return frozenset(spec.name for spec in specs if isinstance(spec, MethodSpec) and spec.floor)

    def generated(self) -> frozenset[str]:
        """Return the names of the datasets whose images are drawn by their plugin."""
        specs = [one.spec for one in self.all("datasets")]
        return frozenset(spec.name for spec in specs if isinstance(spec, DatasetSpec) and spec.generated)

    def _plugins(self, kind: Kind) -> dict[str, Plugin]:
        if kind not in self._found:
            found: dict[str, Plugin] = {}
            for folder, origin in self._folders(kind):
                plugin = Plugin(read_spec(folder / "spec.toml"), folder.resolve(), origin)
                if plugin.spec.group != kind:
                    continue
                first = found.setdefault(plugin.name, plugin)
                if first.folder != plugin.folder and not first.spec.overrides:
                    raise UsageError(
                        f"Two {kind} are called '{plugin.name}': {first.folder} ({first.origin}) "
                        f"and {plugin.folder} ({plugin.origin}).",
                        hint="Rename one, or write 'overrides = true' into the spec.toml of the first.",
                    )
            self._found[kind] = found
        return self._found[kind]

    def _folders(self, kind: Kind) -> Iterator[tuple[Path, str]]:
        for path in self.extra:
            yield from ((folder, "--plugin") for folder in _plugin_folders(path, "--plugin"))
        for text in filter(None, os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)):
            folders = _plugin_folders(Path(text), ENVIRONMENT_VARIABLE)
            yield from ((folder, ENVIRONMENT_VARIABLE) for folder in folders)
        for point in importlib.metadata.entry_points(group=f"uss_bench.{kind}"):
            distribution = point.dist.name if point.dist else "an installed distribution"
            yield _package_folder(point.value, distribution), distribution
        for folder in _built_in_folders(kind):
            yield folder, "built-in"


def _plugin_folders(path: Path, origin: str) -> list[Path]:
    if (path / "spec.toml").is_file():
        candidates = [path]
    elif path.is_dir():
        candidates = sorted(spec.parent for spec in path.glob("*/spec.toml"))
    else:
        candidates = []
    if not candidates:
        raise UsageError(
            f"{path}, given by {origin}, is no plugin: it has no spec.toml, nor has a folder in it.",
            hint="A plugin is a folder with a spec.toml; see docs/plugins.md.",
        )
    return candidates


def _package_folder(module: str, distribution: str) -> Path:
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    for location in (found.submodule_search_locations if found else None) or ():
        if (Path(location) / "spec.toml").is_file():
            return Path(location)
    raise UsageError(
        f"The entry point '{module}' of {distribution} is no package with a spec.toml.",
        hint="Reinstall or uninstall that distribution.",
    )


def _built_in_folders(kind: Kind) -> list[Path]:
    folders = bundled_folders(f"uss_bench.{kind}", kind)
    return sorted(spec.parent for folder in folders for spec in folder.glob("*/spec.toml"))


def _load_package(plugin: Plugin) -> str:
    """Make the plugin's folder a package of its own name, so that its files can import each other."""
    name = f"uss_bench_plugins_{plugin.spec.group}_{plugin.name.replace('-', '_').replace('.', '_')}"
    if plugin.origin != "built-in":  # there may be several of one name, in several folders
        name += f"_{hashlib.sha256(str(plugin.folder).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        package = types.ModuleType(name, f"The plugin folder {plugin.folder}.")
        package.__path__ = [str(plugin.folder)]
        sys.modules[name] = package
        importlib.invalidate_caches()
    return name
