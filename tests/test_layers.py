"""The order of the layers: a module imports from its own folder or a lower layer, and nothing circular."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uss_bench"
LAYERS = [
    "errors contracts",
    "nn protocol runtime files",
    "plugins crf",
    "data results backbones doctor",
    "features",
    "training evaluation",
    "experiment",
    "statistics",
    "plots claims estimate kit",
    "launch board report audit regression",
    "api",
    "cli",
]
"""From the ground up, as `docs/architecture.md` draws them; folders in one line do not import each other."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
ENTRY_POINTS = {"__init__", "__main__"}


def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each one imports, also inside functions and for types only."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if "templates" not in path.parts
    }
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "uss_bench":
                base = (node.module or "").removeprefix("uss_bench").removeprefix(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".removeprefix(".")
                    targets.add(inner if inner in modules else base)
        found[name] = targets & modules.keys() - {name}
    return found


def test_no_import_runs_against_the_order_of_the_layers():
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        for here, there in [(module.split(".")[0], target.split(".")[0])]
        if here not in ENTRY_POINTS and here != there and RANK[there] >= RANK[here]
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", ["data.images", "cli", "experiment.runner"])
def test_the_test_sees_imports(module):
    assert imports()[module], "a test that finds no imports finds no wrong ones"


def test_every_folder_has_a_layer_and_the_root_stays_small():
    names = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert names - ENTRY_POINTS == RANK.keys()
    assert len(list(PACKAGE.glob("*.py"))) <= 8
