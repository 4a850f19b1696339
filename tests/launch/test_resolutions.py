"""A finished cell is found by file status: nothing is loaded for it, and any change is noticed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from running import PLUGINS, SMALL, python

from uss_bench.errors import DataError
from uss_bench.experiment import resolving
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.plan_file import Asked
from uss_bench.files import status as statuses
from uss_bench.files.status import file_status
from uss_bench.launch.planning import plan_cells
from uss_bench.launch.resolutions import deciding_paths
from uss_bench.plugins.registry import Registry

CLASSES = 'name = "mine"\n' + "".join(
    f'[[classes]]\nname = "class {index}"\ncolor = [{index}, 0, 0]\n' for index in range(3)
)

RUN = """
import sys
from uss_bench.cli import main
try:
    main()
finally:
    print(sorted({"torch", "timm", "torchvision", "matplotlib"} & sys.modules.keys()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder dataset of two labeled images for training and two for the test."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split in ("train", "test"):
        for kind, top, shape in (("images", 256, (96, 96, 3)), ("labels", 3, (96, 96))):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for name in "ab":
                Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    (tmp_path / "classes.toml").write_text(CLASSES)
    shutil.copytree(PLUGINS.parents[1] / "methods" / "constant", tmp_path / "plugins" / "mine")
    spec = tmp_path / "plugins" / "mine" / "spec.toml"
    spec.write_text(spec.read_text().replace('name = "constant"', 'name = "mine"', 1))
    return root


@pytest.fixture
def asked(photos, tmp_path) -> CellSpec:
    data = {"root": str(photos), "classes": str(tmp_path / "classes.toml")}
    return CellSpec(method="mine", dataset="folder", data=data, protocol=SMALL)


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Callable[[CellSpec], tuple[str, bool]]:
    """Plan one cell; return its id, and whether anything was loaded for it."""
    calls: list[object] = []
    resolve = resolving.resolve
    monkeypatch.setattr(resolving, "resolve", lambda *given: calls.append(given) or resolve(*given))

    def plan(spec: CellSpec) -> tuple[str, bool]:
        calls.clear()
        (one,) = plan_cells([Asked(spec)], Registry([tmp_path / "plugins"]))
        return one.cell.id, bool(calls)

    return plan


def settle() -> None:
    time.sleep(0.06)


def same_size(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


CHANGES: dict[str, Callable[[Path], object]] = {
    "an image's bytes, not its size": lambda home: same_size(home / "photos/images/train/a.png"),
    "an image's bytes under the old time": lambda home: keep_time(home / "photos/images/test/a.png"),
    "a label": lambda home: same_size(home / "photos/labels/test/a.png"),
    "a new image": lambda home: [
        shutil.copy(home / f"photos/{kind}/train/a.png", home / f"photos/{kind}/train/c.png")
        for kind in ("images", "labels")
    ],
    "an image that is gone": lambda home: [
        (home / f"photos/{kind}/train/b.png").unlink() for kind in ("images", "labels")
    ],
    "another name": lambda home: [
        (home / f"photos/{kind}/train/b.png").rename(home / f"photos/{kind}/train/z.png")
        for kind in ("images", "labels")
    ],
    "two images exchanged": lambda home: exchange(
        home / "photos/images/train/a.png", home / "photos/images/train/b.png"
    ),
    "the classes file": lambda home: (home / "classes.toml").write_text(
        CLASSES.replace("class 0", "class X")
    ),
    "the method's code": lambda home: (home / "plugins/mine/more.py").write_text("X = 1\n"),
}


def keep_time(path: Path) -> None:
    before = path.stat()
    same_size(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(first: Path, second: Path) -> None:
    first.rename(first.with_name("other"))
    second.rename(first)
    first.with_name("other").rename(second)


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_leads_back_to_loading(change, asked, plan, tmp_path):
    settle()
    first, loaded = plan(asked)
    assert loaded
    assert plan(asked) == (first, False)
    CHANGES[change](tmp_path)
    settle()
    again, loaded = plan(asked)
    assert loaded
    if "old time" not in change:  # which the digests of the files, kept by size and time, cannot see
        assert again != first
    assert plan(asked) == (again, False)


def test_seeds_and_remarks_share_a_resolution_and_parameters_do_not(asked, plan):
    settle()
    first, _ = plan(asked)
    other, loaded = plan(msgspec.structs.replace(asked, seed=3, notes=["again"]))
    assert (other != first, loaded) == (True, False)
    for changed in ({"limit": 1}, {"params": {"clusters": 4}}, {"protocol": "stego320@2"}):
        spec = msgspec.structs.replace(asked, **changed)
        assert plan(spec)[1], changed
        assert not plan(spec)[1], changed


def test_what_changed_this_moment_is_not_remembered(asked, plan, photos, monkeypatch):
    """It may change again under the same time stamp."""
    monkeypatch.setattr(statuses, "_FINE_NS", 10**12)
    monkeypatch.setattr(statuses, "_COARSE_NS", 10**12)
    assert plan(asked)[1]
    assert plan(asked)[1]


def test_a_stamp_of_whole_seconds_needs_longer_to_settle(tmp_path):
    path = tmp_path / "file"
    path.touch()
    settle()
    assert file_status(tmp_path)[1]
    later = (time.time_ns() // 10**9 + 1) * 10**9
    os.utime(path, ns=(later, later))
    assert not file_status(tmp_path)[1]


def test_status_sees_folders_links_and_what_cannot_be_read(tmp_path):
    (tmp_path / "top").mkdir()
    seen = [file_status(tmp_path / "top")[0]]

    def changed() -> bool:
        seen.append(file_status(tmp_path / "top")[0])
        return len(set(seen)) == len(seen)

    (tmp_path / "top" / "split").mkdir()
    assert changed(), "an empty folder may be a split"
    (tmp_path / "top" / "broken").symlink_to(tmp_path / "nowhere")
    assert changed()
    (tmp_path / "nowhere").touch()
    assert changed(), "the link leads somewhere now"
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    assert changed(), "and a link to a folder above does not go on for ever"
    (tmp_path / "top" / "__pycache__").mkdir()
    assert not changed(), "what Python writes there decides nothing"
    assert file_status(tmp_path / "absent") != file_status(tmp_path / "missing")


def test_a_huge_folder_is_loaded_every_time(asked, plan, monkeypatch):
    settle()
    monkeypatch.setattr(statuses, "_LARGEST", 3)
    assert plan(asked)[1]
    assert plan(asked)[1]


def test_plugins_of_data_and_networks_from_elsewhere_are_loaded_every_time(plan):
    registry = Registry([PLUGINS])
    assert deciding_paths(CellSpec(method="constant", dataset="tiny"), registry) is None
    unknown = CellSpec(method="dino", dataset="toy3", backbone="vit_small_patch16_224")
    assert deciding_paths(unknown, registry) is None
    card = CellSpec(method="dino", dataset="toy3", backbone="dino_vits8")
    (path,) = (path for path in deciding_paths(card, registry) if path.suffix == ".pth")
    assert path.parent.parts[-2:] == ("hub", "checkpoints")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"status": 1}'])
def test_a_damaged_entry_is_passed_over(content, asked, plan, cache):
    settle()
    first, _ = plan(asked)
    for path in (cache / "digests").glob("*.json"):
        path.write_bytes(content)
    assert plan(asked) == (first, True)


def test_a_setup_that_is_not_what_was_planned_is_refused(asked, plan, tmp_path):
    settle()
    plan(asked)
    (one,) = plan_cells([Asked(asked)], Registry([tmp_path / "plugins"]))
    same_size(tmp_path / "photos/images/train/a.png")
    with pytest.raises(DataError, match="have changed since the command started"):
        _ = one.setup


def test_a_finished_command_imports_no_torch_and_prints_the_same(asked, tmp_path, photos):
    words = [
        *(
            "run",
            "--method",
            "mine",
            "--plugin",
            tmp_path / "plugins",
            "--dataset",
            "folder",
            "--root",
            photos,
        ),
        *(
            "--classes",
            tmp_path / "classes.toml",
            "--protocol",
            SMALL,
            "--out",
            tmp_path / "out",
            "--workers",
            1,
        ),
    ]
    settle()
    first, second = (python(RUN, *words, cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "torch" in first.stdout.splitlines()[-1]
    assert second.stdout.splitlines()[-1] == "[]"
    assert second.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1]
    assert "seed 0: done before, see" in second.stderr
    assert first.stderr.splitlines()[:5] == second.stderr.splitlines()[:5], "the header"

    record = next((tmp_path / "out" / "mine").glob("*.json"))
    record.with_suffix(".png").unlink()
    third = python(RUN, *words, cwd=tmp_path)
    assert record.with_suffix(".png").exists(), third.stderr
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "id": "0" * 16}))
    assert "it was edited" in python(RUN, *words, cwd=tmp_path).stderr
