"""What ``uss-bench new`` writes runs as it is, passes its own test, and takes no name that is not free."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from running import PLUGINS, SMALL

from uss_bench.kit.scenes import scene


def test_a_new_method_runs_at_once_and_beats_what_one_cluster_reaches(command, tmp_path):
    printed = command("new", "method", "pair-wise", "--out", tmp_path)
    assert printed.code == 0, printed.err
    assert "--method pair-wise --dataset toy3" in printed.out
    folder = tmp_path / "pair_wise"
    assert {path.name for path in folder.iterdir()} == {"spec.toml", "pair_wise.py", "test_pair_wise.py"}
    assert not [path for path in folder.iterdir() if "new" in path.read_text().lower()]

    plugins = ("--plugin", folder, "--plugin", PLUGINS)
    quick = ("--protocol", SMALL, "--workers", 1, "--quiet", "--set", "steps=60", "--out", tmp_path / "out")
    printed = command("run", "--method", "pair-wise", "--dataset", "tiny", *plugins, *quick)
    assert printed.code == 0, printed.err
    assert "2 of 2" in printed.out


def test_a_new_dataset_is_trained_on_at_once(command, tmp_path):
    printed = command("new", "dataset", "harbour", "--out", tmp_path / "plugins")
    assert printed.code == 0, printed.err
    folder = tmp_path / "plugins" / "harbour"
    quick = ("--protocol", SMALL, "--workers", 1, "--quiet", "--set", "steps=5", "--out", tmp_path / "out")
    printed = command("run", "--method", "dino", "--dataset", "harbour", "--plugin", folder, *quick)
    assert printed.code == 0, printed.err


def test_a_new_backbone_is_used_at_once(command, tmp_path):
    printed = command("new", "backbone", "my-cnn", "--out", tmp_path)
    assert printed.code == 0, printed.err
    assert "--method dino --dataset toy3 --backbone my-cnn" in printed.out
    folder = tmp_path / "my_cnn"
    quick = ("--protocol", SMALL, "--workers", 1, "--quiet", "--set", "steps=5", "--out", tmp_path / "out")
    plugins = ("--plugin", folder, "--plugin", PLUGINS)
    printed = command(
        "run", "--method", "dino", "--dataset", "tiny", "--backbone", "my-cnn", *plugins, *quick
    )
    assert printed.code == 0, printed.err


@pytest.mark.parametrize("what", ["method", "dataset", "backbone"])
def test_the_test_that_comes_along_passes(command, tmp_path, monkeypatch, what):
    name = f"fresh_{what}"
    command("new", what, name, "--out", tmp_path)
    monkeypatch.syspath_prepend(tmp_path / name)
    spec = importlib.util.spec_from_file_location(f"test_{name}", tmp_path / name / f"test_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for key, value in vars(module).items() if key.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smooseg", "already"),
        ("../outside", "no path"),
        ("Upper", "Lower-case"),
        ("3d", "identifier"),
        ("lambda", "identifier"),
        ("torch", "hide"),
        ("there", "exists"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(command, tmp_path, name, expected):
    (tmp_path / "there").mkdir()
    printed = command("new", "method", name, "--out", tmp_path)
    assert printed.code == 2
    assert expected in printed.err
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_that_cannot_be_written_is_named_and_left_as_it_was(command, tmp_path):
    (tmp_path / "file").write_text("")
    printed = command("new", "method", "mine", "--out", tmp_path / "file" / "below")
    assert printed.code in (1, 2)
    assert "Traceback" not in printed.err
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_scenes_have_odd_sizes_all_classes_ignored_pixels_and_labels_that_follow_the_texture():
    image, label = scene(3, 75, 102)
    assert image.shape == (75, 102, 3)
    assert set(np.unique(label)) == {-1, 0, 1, 2}
    spread = [image[label == number].astype(float).std() for number in range(3)]
    assert spread[0] < spread[2] < spread[1], "plain, dotted, striped"
    np.testing.assert_array_equal(scene(3, 75, 102)[0], image)
    assert not np.array_equal(scene(4, 75, 102)[0], image)


def test_the_templates_travel_with_the_package():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"uss_bench.kit" = ["templates/**/*"]' in text
