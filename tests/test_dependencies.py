"""Every package that is imported is declared: a borrowed one is there today and gone on a clean machine."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"uss_bench", "methods", "datasets"}
USERS = {"uss_bench": (), "methods": (), "datasets": (), "tests": ("test",), "benchmarks": ("test", "dev")}
"""Which extras may be imported at the top of a module of each folder, besides the dependencies."""
OF_AN_EXTRA = {"uss_bench/launch/slurm_job.py": "slurm"}
"""Modules that are imported only where their extra is used."""


ELSEWHERE = {"pydensecrf": ["pydensecrf2"]}
"""Which distribution brings what an extra names otherwise, where it is not installed."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    return {normal(re.match(r"[\w.-]+", line).group()) for line in lines}


def imported(path: Path, *, everywhere: bool) -> set[str]:
    """Return the top-level names that a file imports, those inside functions only when ``everywhere``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if not everywhere and id(node) in inner:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - OWN - sys.stdlib_module_names


def of_an_extra(path: Path) -> tuple[str, ...]:
    extra = OF_AN_EXTRA.get(path.relative_to(ROOT).as_posix())
    return (extra,) if extra else ()


def undeclared(folder: str, extras: tuple[str, ...], *, everywhere: bool) -> list[str]:
    providers = packages_distributions()
    files = [path for path in (ROOT / folder).rglob("*.py") if "templates" not in path.parts]
    beside = {path.stem for path in (*files, *(ROOT / "tests" / "support").glob("*.py"))}
    beside |= {path.name for path in (ROOT / folder).rglob("*") if path.is_dir()}
    allowed = {path: declared(*extras, *of_an_extra(path)) for path in files}
    return sorted(
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path, everywhere=everywhere) - beside
        if not {normal(provider) for provider in providers.get(name, ELSEWHERE.get(name, [name]))}
        & allowed[path]
    )


@pytest.mark.parametrize("folder", USERS)
def test_what_a_module_imports_at_its_top_is_a_dependency(folder):
    assert not undeclared(folder, USERS[folder], everywhere=False)


@pytest.mark.parametrize("folder", USERS)
def test_what_a_function_imports_is_a_dependency_or_an_extra(folder):
    assert not undeclared(folder, tuple(PROJECT["optional-dependencies"]), everywhere=True)


def test_a_missing_declaration_is_seen():
    assert "tifffile" in imported(ROOT / "datasets" / "potsdam3" / "tiles.py", everywhere=False)
    assert "tifffile" in declared()
    assert "nox" not in declared()
    assert "nox" in declared("test")
