"""Writing a new plugin's folder from a template that runs as it is.

Templates are plugins themselves, so that what is written was tested: their names (``new-method``,
``new_method``, ``NewMethod``, ``New method``) are replaced by those of the new plugin.
"""

from __future__ import annotations

import importlib.util
import keyword
import tempfile
from pathlib import Path
from typing import Literal

from uss_bench.errors import DataError, UsageError
from uss_bench.kit.scenes import write_scenes
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import Kind, is_name

What = Literal["method", "dataset", "backbone"]

_GROUPS: dict[What, Kind] = {"method": "methods", "dataset": "datasets", "backbone": "backbones"}
_TEMPLATES = Path(__file__).parent / "templates"
_SAMPLE = {"train": range(12), "test": range(100, 106)}
_SAMPLE_SIZE = (160, 208)


def write_plugin(what: What, name: str, parent: Path, registry: Registry) -> list[Path]:
    """Write the folder of a new plugin into `parent`, whole or not at all.

    Returns:
        The folder, and the files that its author will open: spec, code and test.

    Raises:
        UsageError: when the name is not valid or is taken, or the folder exists.
        DataError: when the folder cannot be written.
    """
    module = _module(what, name, registry)
    folder = Path(parent) / module
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists.", hint="Choose another name, or another place with --out DIR.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{module}.", dir=folder.parent) as scratch:
            partial = Path(scratch) / module
            partial.mkdir()
            written = [_write(source, partial, what, name, module) for source in _sources(what)]
            if what == "dataset":
                write_scenes(partial / "sample", _SAMPLE, size=_SAMPLE_SIZE)
            partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}.") from None
    return [folder, *(folder / path for path in written)]


def _module(what: What, name: str, registry: Registry) -> str:
    """Return the name of the new plugin's module, after checking that both names are free."""
    if not is_name(name):
        raise UsageError(
            f"'{name}' cannot be a {what}'s name.",
            hint="Lower-case letters, digits, '-', '_' and '.', from a letter on; no path.",
        )
    if name in registry.names(_GROUPS[what]):
        raise UsageError(
            f"There is a {what} '{name}' already: {registry.find(_GROUPS[what], name).folder}.",
            hint="Choose another name.",
        )
    module = name.replace("-", "_").replace(".", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(
            f"'{name}' cannot name a Python file: '{module}' is no identifier.", hint="Begin with a letter."
        )
    if importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"A Python module '{module}' is installed, which the new file would hide.",
            hint="Choose another name.",
        )
    return module


def _sources(what: What) -> list[Path]:
    """Return a template's files: spec, code, test."""
    folder = _TEMPLATES / what
    return [folder / "spec.toml", folder / f"new_{what}.py", folder / f"test_new_{what}.py"]


def _write(source: Path, folder: Path, what: What, name: str, module: str) -> str:
    words = module.split("_")
    names = {
        f"new-{what}": name,
        f"new_{what}": module,
        f"New{what.title()}": "".join(word[:1].upper() + word[1:] for word in words),
        f"New {what}": " ".join(words).strip().capitalize(),
    }
    text, target = source.read_text(encoding="utf-8"), source.name
    for old, new in names.items():
        text, target = text.replace(old, new), target.replace(old, new)
    (folder / target).write_text(text, encoding="utf-8")
    return target
