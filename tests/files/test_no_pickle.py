"""Nothing that was downloaded is ever executed: the code has no call that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("uss_bench", "methods", "datasets", "benchmarks", "docs")
FORBIDDEN = {"eval", "exec", "compile", "__import__"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def complaints(source: str) -> Iterator[str]:
    """Yield what in Python source may execute what a file holds."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                wrong = [one.asname or one.name for one in names if one.name in PICKLES - {"pickle"}]
                yield from (f"{node.lineno}: import {name}" for name in wrong)
            case ast.Attribute(value=ast.Name(id="pickle"), attr=used) if used != "UnpicklingError":
                yield f"{node.lineno}: pickle.{used}"
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES:
                yield f"{node.lineno}: from {module}"
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN:
                yield f"{node.lineno}: {name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="load")):
                given = {one.arg: one.value for one in node.keywords}
                if owner == "torch" and not _is(given.get("weights_only"), True):
                    yield f"{node.lineno}: torch.load without weights_only=True"
                if owner in ("np", "numpy") and not _is(
                    given.get("allow_pickle", ast.Constant(False)), False
                ):
                    yield f"{node.lineno}: np.load with pickles"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_can_bring_code_with_it(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): list(complaints(path.read_text(encoding="utf-8")))
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert found
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(content)",
        "from pickle import loads",
        "import yaml",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=wanted)",
        "eval(text)",
        "def f():\n    exec(text)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert list(complaints(source))


@pytest.mark.parametrize(
    "source",
    [
        "pickle.UnpicklingError",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "model.eval()",
        "re.compile('a')",
        "json.load(f)",
    ],
)
def test_what_is_harmless_is_not(source: str) -> None:
    assert list(complaints(source)) == []
