"""A library that cannot be imported is named, with what to install; a plugin's own mistake stays its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from running import PLUGINS, SMALL, python

from uss_bench.doctor import check_libraries, check_plots
from uss_bench.errors import ContractError
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.installation import import_fault, install_advice, unmet

FAULTS = {
    "mismatched": "raise RuntimeError('operator torchvision::nms does not exist')",
    "broken": "raise ImportError('libcudart.so.11.0: cannot open shared object file: No such file')",
    "another's missing": "import a_module_that_nobody_has",
    "too old": "from numpy import a_name_that_is_gone",
    "crash in C": "raise SystemError('initialization of _internal failed')",
}
LIBRARIES = ("timm", "torchvision", "numba", "matplotlib")

MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
MAIN = """
from uss_bench.cli import main
main()
"""


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """Put a library that cannot be imported in the place of the installed one."""

    def replaced(name: str, content: str) -> Path:
        for module in [one for one in sys.modules if one.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("from .inner import *\n")
        (tmp_path / name / "inner.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return replaced


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_library_whose_import_fails_is_named_with_what_to_install(name, fault, replaced):
    replaced(name, FAULTS[fault])
    with pytest.raises((ImportError, RuntimeError, SystemError)) as failed:
        importlib.import_module(name)
    error = import_fault(failed.value)
    assert error is not None
    assert error.what.startswith(f"The library {name} cannot be imported: ")
    assert str(failed.value) in error.what
    assert f"'{name}" in error.hint
    found = {one.name: one for one in (*check_libraries(), *check_plots())}
    finding = found["plots" if name == "matplotlib" else name]
    assert (finding.state, finding.found, finding.advice) == ("problem", error.what, error.hint)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named(name):
    with pytest.raises(ModuleNotFoundError) as failed:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert import_fault(failed.value).what == f"The library {name} cannot be imported: it is not installed."


def test_torchvision_is_installed_for_the_torch_that_is_there(monkeypatch):
    versions = {"torch": "2.10.0+cpu", "torchvision": "0.24.0"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    assert "pip install 'torchvision==0.25.*'" in install_advice("torchvision")
    versions["torch"] = "3.1.0"
    assert install_advice("torchvision") == "pip install --force-reinstall 'torchvision>=0.25'"


def test_versions_that_do_not_belong_together_are_a_problem(monkeypatch):
    needs = {"torchvision": ["torch==2.9.0", "numpy", "gdown; extra == 'gdown'"], "uss-bench": []}
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs.get(name, []))
    wrong = unmet("torchvision")
    assert wrong.startswith("torch==2.9.0, and 2.")
    found = {one.name: one for one in check_libraries()}["torchvision"]
    assert (found.state, found.found) == ("problem", f"it needs {wrong}")
    assert "pip install 'torchvision==0." in found.advice


@pytest.mark.parametrize(
    "content",
    ["import helpers_of_mine", "from torch import a_name_that_never_was", "raise RuntimeError('mine')"],
)
def test_a_plugins_own_mistake_is_not_blamed_on_a_library(content, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    spec = (PLUGINS / "tiny" / "spec.toml").read_text().replace('name = "tiny"', 'name = "mine"')
    (folder / "spec.toml").write_text(spec)
    (folder / "tiny.py").write_text(content)
    with pytest.raises(ContractError, match=r"spec\.toml says entry"):
        Registry([folder]).find("datasets", "mine").load()


RUN = ("run", "--method", "dino", "--dataset", "toy3", "--protocol", SMALL)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("torchvision", FAULTS["mismatched"]), ("timm", ""), ("numba", ""), ("numba", FAULTS["broken"])),
        ("matplotlib", FAULTS["broken"]),
    ],
)
def test_a_run_blames_the_library_and_not_the_backbone(name, content, replaced, tmp_path):
    path = [replaced(name, content)] if content else []
    prelude = "" if content else MISSING.format(name=name)
    said = python(prelude + MAIN, *RUN, "--out", tmp_path / "out", cwd=tmp_path, path=path)
    assert said.returncode == 1
    assert f"Error: The library {name} cannot be imported: " in said.stderr
    assert "spec.toml" not in said.stderr
    assert "pip install" in said.stderr
    found = [path.name for path in (tmp_path / "out").rglob("*.json")]
    assert all(name.endswith(".failed.json") for name in found), "nothing is trained before"


# --- matplotlib's backend ------------------------------------------------------------------------

DRAW = """
import sys
from uss_bench.doctor import check_plots
from uss_bench.plots import style
(found,) = check_plots()
assert found.state == "ok", found
with style.figure() as canvas:
    canvas.subplots().plot([0, 1])
    style.save(canvas, __import__("pathlib").Path(sys.argv[1]))
import matplotlib, os
print(os.environ.get("MPLBACKEND"), matplotlib.rcParams._get_backend_or_none())
"""


@pytest.mark.parametrize(
    "backend",
    [
        *("module://matplotlib_inline.backend_inline", "inline", "nonsense", "module://absent.backend"),
        *("TkAgg", "qtagg", "notebook", "pdf", "Agg", ""),
    ],
)
def test_figures_are_drawn_whatever_backend_is_chosen(backend, tmp_path, monkeypatch):
    """A notebook's own backend is the kernel's: a process that it starts does not have it."""
    monkeypatch.setenv("MPLBACKEND", backend)
    said = python(DRAW, tmp_path / "figure.png", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "figure.png").stat().st_size > 1000
    kept, used = said.stdout.split(" ", 1)
    assert kept == backend == os.environ["MPLBACKEND"], "what the user chose stays for others to read"
    accepted = used.strip().lower()
    assert accepted == (backend.lower() if backend.lower() in KNOWN else "none")


KNOWN = {"module://absent.backend", "tkagg", "qtagg", "notebook", "pdf", "agg"}
if importlib.util.find_spec("matplotlib_inline"):  # a kernel brings it, and matplotlib then knows both names
    KNOWN |= {"module://matplotlib_inline.backend_inline", "inline"}
"""Names that matplotlib takes as they are, and looks for when `pyplot` needs them."""
