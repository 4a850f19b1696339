"""The digest of a method's code: of all that runs, and of nothing else.

It is taken of syntax trees and not of text. Comments, docstrings, formatting and type declarations do not
count, and every version of Python gives the same digest.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from uss_bench.plugins.params import training_geometry
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import MethodSpec
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.record import Cell

EVALUATOR_VERSION = 1
"""Raised whenever the harness itself (features, evaluation, CRF) changes what a run would give."""

_PACKAGE = Path(__file__).parents[1]
_NOT_HASHED = ("contracts", "errors")
"""Modules of the core that compute nothing: they hold types and messages."""
_KEPT = frozenset({"ClassVar", "InitVar", "KW_ONLY"})
"""Annotations that decide which parameters a dataclass has."""
_WITH_FIELDS = frozenset({"NamedTuple", "Struct", "TypedDict"})
"""Bases of classes whose declarations are fields, as those of decorated classes may be."""


def code_hash(plugin: Plugin, training: TrainingGeometry) -> str:
    """Return the digest of a method's code, twelve hex digits.

    It covers the Python files of the method's folder but for its tests, its diagnosis and what reads released
    checkpoints, the modules of uss_bench that they import (and those that these import), what of the spec
    decides a run, and `EVALUATOR_VERSION`.

    Args:
        training: what the spec gives the method to train on, for the run in question.
    """
    spec = plugin.spec
    assert isinstance(spec, MethodSpec)
    stated = {"inputs": spec.inputs, "alpha": spec.alpha, "training": training.stated}
    written = json.dumps(stated, sort_keys=True)
    if plugin.sources is not None:
        return _digest(plugin.sources, written)
    entry, *aside = (
        getattr(one, "entry", "").partition(":")[0] for one in (spec, spec.diagnosis, spec.released)
    )
    left_out = {plugin.folder / f"{module}.py" for module in aside if module != entry}
    files = [path for path in _files(plugin.folder) if path not in left_out]
    return _digest(_read({path.relative_to(plugin.folder).as_posix(): path for path in files}), written)


def source_digest(files: Iterable[Path]) -> str:
    """Return the digest of what Python files compute, with the core modules that they import."""
    return _digest(_read({path.name: path for path in files}), "")


def _read(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in files.items()}


def _digest(sources: Mapping[str, str], stated: str) -> str:
    digest = hashlib.sha256(f"evaluator {EVALUATOR_VERSION} {stated}".encode())
    for name, tree in sorted(_modules(sources).items()):
        digest.update(f"\0{name}\0{_written(tree)}".encode())
    return digest.hexdigest()[:12]


class CurrentCode:
    """The code that methods have now, to hold records against.

    Args:
        registry: where methods are found; one that is not there has no code to compare.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, str, str], str | None] = {}

    def of(self, cell: Cell) -> str | None:
        """Return the digest that a run of this method on this dataset and backbone would state, or None."""
        if cell.method.is_external:
            return None
        key = (cell.method.name, cell.dataset.name, cell.backbone.name)
        if key not in self._known:
            self._known[key] = self._hash(*key)
        return self._known[key]

    def is_stale(self, cell: Cell) -> bool:
        """Whether the code of the cell's method has changed since, as far as is known."""
        return self.of(cell) not in (None, cell.method.code)

    def _hash(self, method: str, dataset: str, backbone: str) -> str | None:
        if method not in self._registry.names("methods"):
            return None
        spec, plugin = self._registry.method(method)
        return code_hash(plugin, training_geometry(spec, {}, dataset=dataset, backbone=backbone))


def essence(source: str) -> str:
    """Return what Python source computes: equal for two that differ in words, layout and types only."""
    return _written(_stripped(source))


def _modules(sources: Mapping[str, str]) -> dict[str, ast.AST]:
    """Return the stripped trees of modules and of the core modules that they import, by name."""
    found: dict[str, ast.AST] = {}
    todo = {f"plugin/{name}": text for name, text in sources.items()}
    while todo:
        name, text = todo.popitem()
        found[name] = tree = _stripped(text, name.endswith("__init__.py"))
        todo |= _read({name: path for name, path in _imported(tree) if name not in found})
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a plugin, but for its tests."""
    for path in folder.rglob("*.py"):
        inner = path.relative_to(folder)
        is_test = (
            path.name.startswith("test_") or path.name.endswith("_test.py") or path.name == "conftest.py"
        )
        if not is_test and not {"tests", "docs"} & {*inner.parent.parts}:
            yield path


def _imported(tree: ast.AST) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the core modules that a stripped module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for top, _, rest in (name.partition(".") for name in names):
            inner = rest.replace(".", "/")
            for name in (f"{inner}.py", f"{inner}/__init__.py"):
                path = _PACKAGE / name
                if top == "uss_bench" and rest.partition(".")[0] not in ("", *_NOT_HASHED) and path.is_file():
                    yield name, path


def _stripped(source: str, exports: bool = False) -> ast.AST:
    """Parse source and remove from it what it declares and explains.

    Args:
        exports: whether names may be imported only to be imported from here.
    """
    tree = ast.parse(source)
    declared = _names(_annotations(tree))
    _Stripper().visit(tree)
    _drop_imports(tree, used=_names([tree]), declared=declared, exports=exports)
    return tree


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            yield node.returns
        elif isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            yield node.annotation


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


class _Stripper(ast.NodeTransformer):
    """Removes docstrings, annotations, and what is for type checkers only."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        name = getattr(node.test, "attr", getattr(node.test, "id", ""))
        return node.orelse if name == "TYPE_CHECKING" else node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        bases = {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases}
        if node.decorator_list or bases & _WITH_FIELDS:
            # Declarations are parameters here: their names, order and defaults count, their types do not.
            for place, inner in enumerate(node.body):
                if isinstance(inner, ast.AnnAssign) and not _names([inner.annotation]) & _KEPT:
                    value = [] if inner.value is None else [inner.value]
                    node.body[place] = ast.Expr(ast.List([ast.Name("field"), inner.target, *value]))
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if _names([node.annotation]) & _KEPT:
            return self.generic_visit(node)
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value))


def _drop_imports(tree: ast.AST, *, used: set[str], declared: set[str], exports: bool) -> None:
    """Remove the imports of names that nothing computes with.

    A module that is imported as a whole and never named is kept, for what importing it does.
    """

    def computes(alias: ast.alias, statement: ast.stmt) -> bool:
        name = alias.asname or alias.name.partition(".")[0]
        kept_unnamed = isinstance(statement, ast.Import) or exports or name == "*"
        return name in used or (kept_unnamed and name not in declared)

    def remains(statement: ast.stmt) -> bool:
        if not isinstance(statement, (ast.Import, ast.ImportFrom)):
            return True
        statement.names = [alias for alias in statement.names if computes(alias, statement)]
        return bool(statement.names)

    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [one for one in statements if remains(one)])


def _written(tree: ast.AST) -> str:
    return json.dumps(_plain(tree), ensure_ascii=False)


def _plain(node: Any) -> Any:
    """Return a tree as lists, without the fields that only some versions of Python have."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, ast.AST):
        return str(node)
    if isinstance(node, ast.Constant):
        return ["Constant", repr(node.value)]
    if isinstance(node, ast.JoinedStr):  # early releases of Python 3.12 put empty strings into formats
        return ["JoinedStr", *(_plain(one) for one in node.values if getattr(one, "value", None) != "")]
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "type_comment"))
    return [
        type(node).__name__,
        *([name, _plain(value)] for name, value in fields if value not in (None, [])),
    ]
