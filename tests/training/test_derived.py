"""Derived arrays: built once from any inputs, keyed by what decides them, and free of the run's seed."""

from __future__ import annotations

import errno
import functools
import json
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError, DataError
from uss_bench.features.artifacts import ITEMS_PER_PART
from uss_bench.features.store import FeatureStore
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

COUNT = 2 * ITEMS_PER_PART + 10
PLAIN = ArrayImages.random(COUNT, 9, 11)
IMAGES = ArrayImages(PLAIN.arrays, [{"depth": array[..., 0] / 7.0} for array in PLAIN.arrays])
CALLS: list[object] = []


@pytest.fixture(autouse=True)
def _forget_calls():
    CALLS.clear()


@pytest.fixture
def make(tmp_path):
    def make(seed: int = 0, *, images=IMAGES, budget: int = 10**9, side: int = 8) -> RunContext:
        store = FeatureStore(
            tmp_path / "features",
            FakeBackbone(),
            device=torch.device("cpu"),
            dtype="float32",
            budget=budget,
            log=lambda message: None,
        )
        items = TransformedImages(images, side=side, filter="nearest")
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return RunContext(method=None, items=items, store=store, seed=seed, scratch=scratch, clock=Clock())

    return make


def table(features, *, scale: float = 1.0) -> dict[str, np.ndarray]:
    CALLS.append("table")
    tokens = features.batch(range(len(features)))["tokens"]
    return {"mean": scale * tokens.mean((2, 3)).numpy(), "count": np.array(len(features))}


def bright(item, *, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Return the places of bright patches, whose number differs from image to image, and the mean depth."""
    CALLS.append(threading.current_thread().name)
    places = (item["tokens"][0] + 0.5 > threshold).nonzero().numpy()
    return {"places": places, "depth": item["aux:depth"].mean().numpy(), "image": item["image"].numpy()}


INPUTS = ["tokens", "image", "aux:depth"]


def built_folders(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("features/*/derived/*"))


# --- What is given ---------------------------------------------------------------------------------


def test_arrays_of_a_split_are_built_once_and_mapped(make, tmp_path):
    for seed in (0, 1):
        arrays = make(seed).derived("table", table, params={"scale": 2.0})
        expected = 2 * make().features()[5]["tokens"].mean((1, 2)).numpy()
        np.testing.assert_allclose(arrays["mean"][5], expected)
        assert arrays["count"] == COUNT
    assert CALLS == ["table"]
    assert isinstance(arrays["mean"].base, np.memmap)
    assert json.loads((built_folders(tmp_path)[0] / "about.json").read_text())["params"] == {"scale": 2.0}


@pytest.mark.parametrize("budget", [10**9, 0])
def test_arrays_of_items_may_differ_in_shape_and_come_from_any_input(make, budget):
    context = make(budget=budget)
    found = context.derived_items("bright", bright, INPUTS, params={"threshold": 0.6})
    assert len(found) == len(CALLS) == COUNT
    inputs = context.features(INPUTS)
    for index in (0, 5, ITEMS_PER_PART - 1, ITEMS_PER_PART, COUNT - 1):
        expected = bright(inputs[index], threshold=0.6)
        for name in expected:
            np.testing.assert_array_equal(found[index][name], expected[name], err_msg=name)
    assert len({found[index]["places"].shape for index in range(COUNT)}) > 1
    with pytest.raises(IndexError):
        found[COUNT]
    with pytest.raises(ValueError, match="'places' has different shapes"):
        found.batch("places", range(COUNT))
    chosen = [COUNT - 1, 0]
    assert torch.equal(found.batch("image", chosen), inputs.batch(chosen)["image"])
    assert found.batch("depth", torch.tensor(chosen)).shape == (2,)


def test_items_are_built_in_threads_and_come_in_their_order(make, monkeypatch):
    monkeypatch.setattr("uss_bench.training.derived.whole_cores", lambda: 3)
    before = torch.get_num_threads()
    found = make().derived_items("bright", bright, INPUTS)
    assert len(set(CALLS)) > 1
    assert threading.current_thread().name not in CALLS
    assert torch.get_num_threads() == before
    monkeypatch.setattr("uss_bench.training.derived.whole_cores", lambda: 1)
    again = make().derived_items("bright once more", bright, INPUTS)
    for index in range(COUNT):
        np.testing.assert_array_equal(found[index]["places"], again[index]["places"])


def test_only_the_result_is_kept_of_facets_that_are_not_stored(make, tmp_path):
    context = make()
    context.derived_items("bright", bright, INPUTS)
    assert context._store.encoded == COUNT
    assert {path.parent.parent.name for path in tmp_path.rglob("*.npy")} == {"derived"}
    make().features(["tokens"])
    again = make()
    again.derived_items("brighter", bright, INPUTS)
    assert again._store.encoded == 0, "what is stored is read from there"


def test_an_array_that_was_read_may_be_written_to_without_harm(make):
    arrays = make().derived("table", table)
    arrays["mean"][:] = -1
    torch.from_numpy(arrays["mean"]).add_(1)
    assert (make().derived("table", table)["mean"] != 0).all()


# --- The key ---------------------------------------------------------------------------------------


def test_the_key_is_name_parameters_inputs_and_data(make, tmp_path):
    make().derived("table", table)
    make().derived("table", table, params={})
    assert len(CALLS) == 1
    make().derived("other", table)
    make().derived("table", table, params={"scale": 2.0})
    make().derived("table", table, ["tokens", "cls"])
    make(images=ArrayImages.random(COUNT, 9, 11, seed=1)).derived("table", table)
    make(side=12).derived("table", table)
    assert len(CALLS) == 6
    make().derived("table", table, ["tokens"])
    assert len(CALLS) == 6


def test_one_block_has_one_key_whatever_it_is_called(make):
    def keys(features):
        CALLS.append("keys")
        return {"first": features.batch([0])[features.facets[0]].numpy()}

    for name in ("keys@1", "keys@-1"):
        make().derived("keys", keys, [name])
    assert CALLS == ["keys"]


def plugin(folder: Path, name: str, **files: str):
    """Write a plugin's modules, and return its module `masks`, freshly imported."""
    folder.mkdir(exist_ok=True)
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)
    package = name
    for module in [one for one in sys.modules if one.partition(".")[0] == package]:
        del sys.modules[module]
    import importlib
    import types

    made = types.ModuleType(package)
    made.__path__ = [str(folder)]
    sys.modules[package] = made
    importlib.invalidate_caches()
    return importlib.import_module(f"{package}.masks")


HELPER = "LEVEL = 1\n"
MASKS = """from .helper import LEVEL
import numpy as np
def build(features):
    return {"level": np.array(LEVEL)}
"""


def test_the_code_of_the_builders_module_and_its_own_imports_are_part_of_the_key(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def level(**files: str) -> int:
        masks = plugin(tmp_path / "plugin", "derived_plugin", **({"masks": MASKS, "helper": HELPER} | files))
        return int(make().derived("level", masks.build)["level"])

    assert level() == 1
    level(masks="# a comment\n" + MASKS, loop="def train(): ...")
    assert len(built_folders(tmp_path)) == 1
    assert level(helper="LEVEL = 2\n") == 2
    assert level(masks=MASKS.replace("(LEVEL)", "(10 + LEVEL)")) == 11
    assert len(built_folders(tmp_path)) == 3


def test_a_file_counts_by_its_content_and_a_run_by_its_state(make, tmp_path):
    def read(features, *, codebook, base):
        CALLS.append(codebook.read_text())
        return {"cell": np.array(len(base.cell))}

    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("one")
    other.write_text("one")
    run = SimpleNamespace(cell="0123", state="a", make=lambda: None)
    make().derived("read", read, params={"codebook": path, "base": run})
    make().derived("read", read, params={"codebook": other, "base": run})
    assert CALLS == ["one"]
    path.write_text("two")
    make().derived("read", read, params={"codebook": path, "base": run})
    twin = SimpleNamespace(cell="4567", state="a", make=None)
    make().derived("read", read, params={"codebook": path, "base": twin})
    assert CALLS == ["one", "two"]
    other_run = SimpleNamespace(cell="0123", state="b", make=None)
    make().derived("read", read, params={"codebook": path, "base": other_run})
    assert CALLS == ["one", "two", "two"]
    with pytest.raises(DataError, match=r"needs the file .*c.txt \(codebook\): No such file"):
        make().derived("read", read, params={"codebook": tmp_path / "c.txt", "base": run})


@pytest.mark.parametrize("value", [np.array(1), float("nan"), {1, 2}, object()])
def test_a_parameter_that_cannot_enter_the_key_is_refused(make, value):
    with pytest.raises(ContractError, match=r"parameter .scale. of type .*cannot enter its key"):
        make().derived("table", table, params={"scale": value})


# --- The seed --------------------------------------------------------------------------------------


def noisy(features, *, generator) -> dict[str, np.ndarray]:
    return {"noise": torch.rand(3, generator=generator).numpy()}


def noisy_item(item, *, generator) -> dict[str, np.ndarray]:
    return {"noise": torch.rand(3, generator=generator).numpy()}


def test_what_depends_on_the_seed_says_so_and_every_seed_has_its_own(make):
    first = make(seed=1).derived("noise", noisy, seeded=True)["noise"].copy()
    np.testing.assert_array_equal(first, make(seed=1).derived("noise", noisy, seeded=True)["noise"])
    assert not np.array_equal(first, make(seed=2).derived("noise", noisy, seeded=True)["noise"])
    items = make(seed=1).derived_items("noise", noisy_item, seeded=True)
    assert len({tuple(items[index]["noise"]) for index in range(COUNT)}) == COUNT
    again = make(seed=1).derived_items("noise once more", noisy_item, seeded=True)
    assert not np.array_equal(items[0]["noise"], again[0]["noise"]), "two artifacts draw independently"


DRAWS = {
    "torch": lambda: torch.rand(1),
    "numpy": lambda: np.random.rand(),  # noqa: NPY002
    "python": lambda: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("by_item", [False, True])
def test_drawing_from_a_global_generator_is_an_error_and_is_undone(make, tmp_path, draw, by_item):
    def drawing(given, *, draw: str):
        DRAWS[draw]()
        return {"nothing": np.zeros(1)}

    context = make()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    before = torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    derive = context.derived_items if by_item else context.derived
    with pytest.raises(ContractError, match="'drawing' drew from a global random generator"):
        derive("drawing", drawing, params={"draw": draw})
    assert (torch.rand(1), np.random.rand(), random.random()) == before  # noqa: NPY002
    assert not list(tmp_path.glob("features/*/derived/*/*.npy"))


CONTEXT: list[RunContext] = []


def asking(features):
    return {"noise": torch.rand(1, generator=CONTEXT[0].generator("noise")).numpy()}


def test_a_generator_of_the_run_is_refused_while_arrays_are_derived(make):
    CONTEXT[:] = [make()]
    with pytest.raises(ContractError, match=r"generator of the run \('noise'\).*while 'asking' is derived"):
        CONTEXT[0].derived("asking", asking)
    CONTEXT[0].generator("noise")


def test_what_is_captured_would_not_stand_in_the_key(make):
    scale = 3.0
    with pytest.raises(ContractError, match="'table' captures scale, which its key would not show"):
        make().derived("table", lambda features: {"mean": np.array(scale)})
    with pytest.raises(ContractError, match="must be a plain function, not a partial"):
        make().derived("table", functools.partial(table, scale=2.0))
    with pytest.raises(ContractError, match="must be a plain function, not a method"):
        make().derived("table", Builder().build)


class Builder:
    def build(self, features):
        return {}


RETURNED = {
    "nothing": (lambda given: {}, "must return arrays by name"),
    "none": (lambda given: None, "must return arrays by name"),
    "a path": (lambda given: {"../up": np.zeros(1)}, r"called '\.\./up'"),
    "objects": (lambda given: {"a": np.array([None])}, "'a' as object"),
    "text": (lambda given: {"a": np.array("x")}, "not an array of numbers"),
    "failure": (lambda given: {}["x"], "failed in building arrays: KeyError"),
}


@pytest.mark.parametrize("kind", RETURNED)
@pytest.mark.parametrize("by_item", [False, True])
def test_what_is_no_array_is_refused(make, kind, by_item):
    build, message = RETURNED[kind]
    with pytest.raises(ContractError, match=message):
        (make().derived_items if by_item else make().derived)("wrong", build)


# --- Interruptions, damage, places -----------------------------------------------------------------

FAIL_AT = [COUNT]


def failing(item) -> dict[str, np.ndarray]:
    CALLS.append("item")
    if len(CALLS) > FAIL_AT[0]:
        raise KeyboardInterrupt
    return {"mean": item["tokens"].mean().numpy()}


def test_an_interrupted_build_goes_on_where_it_was(make, tmp_path):
    FAIL_AT[0] = ITEMS_PER_PART + 20
    with pytest.raises(KeyboardInterrupt):
        make().derived_items("mean", failing)
    (folder,) = built_folders(tmp_path)
    assert [path.name for path in folder.glob("*.npy")] == ["00000-mean.npy"]
    CALLS.clear()
    FAIL_AT[0] = COUNT
    context = make()
    found = context.derived_items("mean", failing)
    assert len(CALLS) == context._store.encoded == COUNT - ITEMS_PER_PART
    assert not list(folder.glob(".*partial"))
    for index in (0, COUNT - 1):
        expected = context.features()[index]["tokens"].mean().numpy()
        np.testing.assert_array_equal(found[index]["mean"], expected)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "sidecar"])
def test_damaged_parts_are_built_again_alone(make, tmp_path, damage):
    FAIL_AT[0] = 10**6
    make().derived_items("mean", failing)
    (path,) = tmp_path.glob("features/*/derived/*/00001-mean.npy")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-4])
    elif damage == "remove":
        path.unlink()
    else:
        path.with_name("00001.json").write_text("{}")
    CALLS.clear()
    found = make().derived_items("mean", failing)
    assert len(CALLS) == ITEMS_PER_PART
    expected = make().features()[ITEMS_PER_PART + 3]["tokens"].mean().numpy()
    np.testing.assert_array_equal(found[ITEMS_PER_PART + 3]["mean"], expected)


def test_a_cache_that_cannot_be_written_is_replaced_by_the_runs_own_folder(make, tmp_path, monkeypatch):
    def refuse(self, *arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", refuse)
        context = make(budget=0)
        arrays = context.derived("table", table)
    assert isinstance(arrays["mean"].base, np.memmap)
    assert Path(arrays["mean"].base.filename).is_relative_to(context.scratch)
    assert not list(tmp_path.glob("features/**/*.npy"))


def test_a_full_disk_is_a_data_error_and_leaves_no_partial_file(make, tmp_path, monkeypatch):
    context = make(budget=0)
    context.features()

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DataError, match="No space left on device"):
            context.derived("table", table)
    assert not list(tmp_path.rglob("*.partial"))
    assert make().derived("table", table)["count"] == COUNT


def test_deriving_is_a_phase_of_its_own(make):
    context = make()
    context.derived("table", table)
    assert set(context._clock.phases) == {"extract"}
