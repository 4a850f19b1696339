"""The digest of a method's code: what changes it, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import MethodSpec
from uss_bench.protocol import TrainingGeometry
from uss_bench.results import code
from uss_bench.results.code import CurrentCode, code_hash, essence
from uss_bench.results.record import BackboneId, Cell, DatasetId, MethodId

METHOD = '''"""A method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uss_bench.contracts import Batch
from uss_bench.kinds import Kind
from uss_bench.used import helper


@dataclass
class Method:
    """What it is."""

    clusters: int
    rate: float = 0.1  # per step

    def train(self, data: Batch) -> Mapping[str, Kind]:
        total: float = self.rate
        return helper("# no comment", """kept""", f"{total:.1f}")
'''
CELL = Cell(
    method=MethodId(name="smooseg", params={}, code="c0de"),
    dataset=DatasetId(name="tiny", fingerprint="f1", train_split="train", test_split="test"),
    backbone=BackboneId(name="vit", sha256="ab12", feature_dtype="float16"),
    training=TrainingGeometry(),
    protocol="stego320@2",
    protocol_hash="0",
    alpha=2.0,
    seed=0,
)
MODULES = {
    "used.py": "from uss_bench.deeper.still import constant\n\n\ndef helper(*texts):\n    return constant\n",
    "kinds.py": "Kind = int\n",
    "deeper/__init__.py": "",
    "deeper/still.py": "constant = 1\n",
    "unrelated.py": "constant = 2\n",
    "contracts.py": "Batch = dict\n",
}


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> Plugin:
    """A method's folder, beside a package that stands for uss_bench."""
    for name, content in {"plugin/method.py": METHOD, **{f"core/{k}": v for k, v in MODULES.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(code, "_PACKAGE", tmp_path / "core")
    spec = MethodSpec(name="it", title="It", summary="it", entry="method:Method", inputs=["tokens"])
    return Plugin(spec, tmp_path / "plugin", "a test")


WHOLE = TrainingGeometry()


def hashed(plugin: Plugin, training: TrainingGeometry = WHOLE, **spec: object) -> str:
    return code_hash(Plugin(replace(plugin.spec, **spec), plugin.folder, ""), training)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # per step", ""),
        ("  # per step", "  # at every step"),
        ('"""A method."""', '"""Another method,\n\nin a few lines.\n"""'),
        ('    """What it is."""\n', ""),
        ("\n\n\n@dataclass", "\n\n\n\n# ---\n\n@dataclass"),
        ("rate: float = 0.1", "rate: float = 0.1   "),
        ("\n\n\n@dataclass", "\n\x0c\n\n@dataclass"),
        ('f"{total:.1f}")', 'f"{total:.1f}",\n        )'),
        ("0.1", "0.10"),
        # Type declarations.
        ("rate: float", "rate: int | float"),
        ("data: Batch", "data: Mapping[str, object]"),
        (" -> Mapping[str, Kind]", ""),
        ("        total: float = ", "        total = "),
        ("        total: float = ", "        total: int\n        total = "),
        ("from uss_bench.contracts import Batch", "from uss_bench.contracts import Batch, Context"),
        ("from collections.abc import Mapping", "from collections.abc import Mapping, Sequence"),
        (
            "from uss_bench.used",
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
            "    from uss_bench.unrelated import constant\nfrom uss_bench.used",
        ),
        ("from __future__ import annotations\n", ""),
    ],
)
def test_words_layout_and_types_do_not_change_the_hash(plugin, old, new):
    before = hashed(plugin)
    edit(plugin.folder / "method.py", old, new)
    assert hashed(plugin) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rate: float = 0.1", "rate: float = 0.2"),
        ("# no comment", "# other text"),
        ('"""kept"""', '"""changed"""'),
        ('"""kept"""', '"""kept\n\n"""'),
        ('"""kept"""', '"""kept""", ""'),
        ("{total:.1f}", "{total:.2f}"),
        ("        return", "        if True: return"),
        # A dataclass's parameters: their names, their order, and whether they are ones at all.
        ("clusters: int", "k: int"),
        ("    clusters: int\n", ""),
        ("    clusters: int\n", "    clusters: int\n    more: int\n"),
        ("rate: float = 0.1", "rate = 0.1"),
        ("rate: float = 0.1", "rate: ClassVar[float] = 0.1"),
        ("@dataclass", "@dataclass(frozen=True)"),
        ("from uss_bench.used import helper", "from uss_bench.used import other as helper"),
        (
            "from uss_bench.used import helper",
            "import uss_bench.unrelated\nfrom uss_bench.used import helper",
        ),
    ],
)
def test_what_computes_changes_the_hash(plugin, old, new):
    before = hashed(plugin)
    edit(plugin.folder / "method.py", old, new)
    assert hashed(plugin) != before


def test_code_that_shares_a_line_with_a_docstring_counts(plugin):
    edit(plugin.folder / "method.py", '"""What it is."""', '"""What it is."""; rate = 7')
    before = hashed(plugin)
    edit(plugin.folder / "method.py", "rate = 7", "rate = 8")
    assert hashed(plugin) != before


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("used.py", True),
        ("deeper/still.py", True),
        ("unrelated.py", False),
        ("contracts.py", False),
        ("kinds.py", False),
    ],
)
def test_the_hash_covers_core_modules_that_are_imported_to_compute_with(plugin, module, counts):
    before = hashed(plugin)
    path = plugin.folder.parent / "core" / module
    path.write_text(path.read_text() + "more = 1\n")
    assert (hashed(plugin) != before) is counts


@pytest.mark.parametrize(
    "name",
    ["README.md", "test_method.py", "method_test.py", "conftest.py", "tests/helpers.py", "docs/figure.py"],
)
def test_tests_and_documents_in_the_folder_do_not_change_the_hash(plugin, name):
    before = hashed(plugin)
    path = plugin.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("assert 1 == 1\n")
    assert hashed(plugin) == before


@pytest.mark.parametrize("name", ["loss.py", "parts/loss.py", "testing.py", "contest.py"])
def test_every_other_file_of_the_method_does(plugin, name):
    before = hashed(plugin)
    path = plugin.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("weight = 1\n")
    assert hashed(plugin) != before


def test_what_of_the_spec_decides_a_run_changes_the_hash_and_nothing_else_of_it(plugin, monkeypatch):
    before = hashed(plugin)
    assert hashed(plugin, title="Another", notes=["a note"], license="MIT") == before
    found = {
        before,
        hashed(plugin, inputs=["keys@-1"]),
        hashed(plugin, alpha=3.0),
        hashed(plugin, TrainingGeometry(crops="five")),
        hashed(plugin, TrainingGeometry(crops="five", crop_jpeg=True)),
    }
    monkeypatch.setattr(code, "EVALUATOR_VERSION", code.EVALUATOR_VERSION + 1)
    assert len(found | {hashed(plugin)}) == 6


def test_bare_declarations_count_where_they_are_fields_alone():
    net = "class Net({base}):\n    {line}\n    def forward(self): pass\n"
    assert essence(net.format(base="Module", line="weight: Tensor")) == essence(
        net.format(base="Module", line="")
    )
    assert essence(net.format(base="NamedTuple", line="weight: Tensor")) != essence(
        net.format(base="NamedTuple", line="")
    )


def test_numbers_texts_and_names_are_told_apart():
    sources = [
        "x = 1",
        "x = '1'",
        "x = 1.0",
        "x = None",
        "x = 'None'",
        "x = b'1'",
        "x = y",
        "x = 'y'",
        "x = f('')",
    ]
    assert len({essence(source) for source in [*sources, "x = f()"]}) == len(sources) + 1


# --- Today's methods -----------------------------------------------------------------------------


def test_a_module_for_one_method_leaves_the_others_valid(monkeypatch, tmp_path):
    """What is imported by no method counts for none, and the correspondence loss for those who share it."""
    copy = tmp_path / "uss_bench"
    shutil.copytree(code._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    monkeypatch.setattr(code, "_PACKAGE", copy)
    methods = {plugin.name: plugin for plugin in Registry().all("methods")}

    def codes() -> dict[str, str]:
        return {name: code_hash(plugin, TrainingGeometry()) for name, plugin in methods.items()}

    before = codes()
    (copy / "nn" / "brand_new.py").write_text("weight = 1\n")
    assert codes() == before
    path = copy / "nn" / "correspondence.py"
    path.write_text(path.read_text() + "\nweight = 1\n")
    changed = {name for name, one in codes().items() if one != before[name]}
    assert changed == {"stego", "depthg", "equss", "reib", "eagle"}


def test_a_methods_code_depends_on_what_its_release_trains_on_there(registry):
    current = CurrentCode(registry)
    where = {
        name: current.of(
            replace(
                CELL,
                method=replace(CELL.method, name="stego"),
                dataset=replace(CELL.dataset, name=name),
            )
        )
        for name in ("toy3", "potsdam3", "cocostuff27")
    }
    assert where["toy3"] == where["potsdam3"] != where["cocostuff27"]


def test_a_method_that_is_not_there_is_not_stale(registry):
    current = CurrentCode(registry)
    unknown = replace(CELL, method=replace(CELL.method, name="nobodys"))
    assert current.of(unknown) is None
    assert not current.is_stale(unknown)
    assert current.is_stale(CELL)
    known = current.of(CELL)
    assert not current.is_stale(replace(CELL, method=replace(CELL.method, code=known)))
