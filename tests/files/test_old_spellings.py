"""Files and commands of earlier versions, which hold British spellings, are still read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from plugin_folders import write_plugin
from potsdam_files import archive

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.plan_file import read_plan
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.studies import find_study
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import read_spec

CLASSES = """
name = "duo"
[[classes]]
name = "a"
{color} = [1, 2, 3]
[[classes]]
name = "b"
{color} = [4, 5, 6]
"""
DATASET = """
kind = "dataset"
name = "theirs"
title = "Theirs"
summary = "photos"
entry = "theirs:Theirs"
licence = "CC BY 4.0"
[[splits]]
name = "train"
images = 3
labelled = false
[[classes]]
name = "a"
colour = [1, 2, 3]
"""
STUDY = """
name = "mine"
title = "Mine"
method = "{method}"
params = {{ {fixed} }}
"""


def test_a_dataset_of_another_package(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(DATASET)
    spec = read_spec(path)
    assert (spec.license, spec.classes[0].color, spec.splits[0].labeled) == ("CC BY 4.0", (1, 2, 3), False)


def test_what_is_no_old_spelling_is_as_wrong_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(DATASET.replace("licence", "lisence"))
    with pytest.raises(DataError, match="unknown field `lisence`"):
        read_spec(path)


@pytest.mark.parametrize("color", ["color", "colour"])
def test_the_classes_file_of_a_user(tmp_path: Path, color: str) -> None:
    classes = tmp_path / "classes.toml"
    classes.write_text(CLASSES.format(color=color))
    spec, plugin = Registry().dataset("folder")
    for part, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / part).mkdir()
        Image.new(mode, (4, 4)).save(tmp_path / part / "a.png")
    dataset = plugin.load()(spec, root=tmp_path, classes=classes)
    assert [row.color for row in dataset.classes] == [(1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize(
    ("method", "old", "today", "value"),
    [("stego", "neighbours", "neighbors", 3), ("ds2dl", "centre_similarity", "center_similarity", True)],
)
class TestParameters:
    def test_of_a_cell(self, registry: Registry, method, old, today, value) -> None:
        asked = CellSpec(method=method, dataset="tiny", backbone="patchstats", params={old: value})
        params = resolve(asked, registry).params
        assert params[today] == value
        assert old not in params

    def test_of_a_plan_file(self, registry: Registry, tmp_path: Path, method, old, today, value) -> None:
        path = tmp_path / "plan.toml"
        table = f'method = ["{method}", "dino"]\ndataset = "tiny"\nbackbone = "patchstats"\n'
        path.write_text(f"[[runs]]\n{table}set = {{ '{method}.{old}' = {str(value).lower()} }}\n")
        _, (first, _) = read_plan(path, registry)
        assert resolve(first.spec, registry).params[today] == value

    def test_of_a_study(self, registry: Registry, tmp_path: Path, method, old, today, value) -> None:
        path = tmp_path / "study.toml"
        rows = f'[[rows]]\nlabel = "one"\nparams = {{ {old} = {str(value).lower()} }}\n'
        path.write_text(STUDY.format(method=method, fixed="") + rows)
        study = find_study(str(path), registry)
        study.check(registry)
        assert study.plan.rows[0].params == {today: value}
        with pytest.raises(UsageError, match=f"varies {today}"):
            study.params(study.plan.rows[0], {today: value})

    def test_of_a_preset(self, tmp_path: Path, method, old, today, value) -> None:
        preset = f"[[presets]]\nname = 'old'\nparams = {{ {old} = {str(value).lower()} }}\n"
        code = f"def New(clusters: int = 2, {today}: {type(value).__name__} = 0): ..."
        folder = write_plugin(tmp_path / "new", more=preset, code=code)
        asked = CellSpec(method="new", dataset="toy3", preset="old", limit=1)
        registry = Registry([folder])
        assert spec_params(asked, registry)[today] == value


def spec_params(asked: CellSpec, registry: Registry) -> dict[str, object]:
    from uss_bench.plugins.params import choose_preset, method_params

    spec, plugin = registry.method(asked.method)
    preset = choose_preset(spec, asked.preset, dataset=asked.dataset, backbone="none")
    return method_params(plugin, preset, asked.params, n_classes=3)


def test_the_axis_of_a_study(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    axis = "[axis]\nparameter = 'neighbours'\nvalues = [2, 4]\n"
    path.write_text(STUDY.format(method="stego", fixed="steps = 2") + axis)
    study = find_study(str(path), registry)
    study.check(registry)
    assert [row.params for row in study.plan.settings] == [{"neighbors": 2}, {"neighbors": 4}]


def test_a_method_that_has_the_old_name_itself_keeps_it(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "new", code="def New(clusters: int = 2, neighbours: int = 0): ...")
    asked = CellSpec(method="new", dataset="toy3", params={"neighbours": 5})
    assert spec_params(asked, Registry([folder]))["neighbours"] == 5


@pytest.mark.parametrize(
    ("wanted", "partial", "split"),
    [
        ("unlabelled", True, "unlabeled-partial"),
        ("unlabelled-partial", True, "unlabeled-partial"),
        ("tiles-labelled", False, "tiles-labeled"),
        ("unlabeled", False, "unlabeled"),
    ],
)
def test_the_name_of_a_split(tmp_path: Path, wanted: str, partial: bool, split: str) -> None:
    spec, plugin = Registry().dataset("potsdam3")
    dataset = plugin.load()(spec, root=archive(tmp_path), train=wanted, partial=partial)
    assert dataset.train_split == split
    with pytest.raises(UsageError, match="no split 'unlabeld'"):
        plugin.load()(spec, root=tmp_path, train="unlabeld", partial=partial)
