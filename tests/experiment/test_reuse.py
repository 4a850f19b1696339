"""Trained states in the cache: what shares one, and what damage, kills and pruning leave of it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import FakePool
from PIL import Image
from running import PLUGINS, SMALL, Run

from uss_bench.contracts import Dataset, Labels
from uss_bench.data.split_check import SplitReport, check_split
from uss_bench.data.validated import ValidatedLabels
from uss_bench.errors import DataError
from uss_bench.experiment import runner
from uss_bench.experiment.reuse import stored_state, training_key
from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.setup import Setup
from uss_bench.results import states
from uss_bench.results.collection import Entry
from uss_bench.results.files import new_rerun_token, read_arrays, read_record, read_state
from uss_bench.results.provenance import environment
from uss_bench.results.states import NOTE, STATES, StoredState, Trained
from uss_bench.training.context import RunContext

RNG = np.random.default_rng(0)
HERE = environment("cpu")
OTHER = "stego320@2[eval_side=64,flip=false]"
FEW = {"steps": 6, "batch_size": 4, "checkpoint_every": 2}
CLASSES = """
name = "mine"
[[classes]]
name = "a"
color = [1, 2, 3]
[[classes]]
name = "b"
color = [4, 5, 6]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Labeled images in two splits."""
    for split in ("train", "test"):
        for number in range(4):
            put(image(tmp_path / "d", split, number), RNG.integers(0, 256, (40, 48, 3), np.uint8))
            put(label(tmp_path / "d", split, number), RNG.integers(0, 2, (40, 48), np.uint8))
    (tmp_path / "d" / "classes.toml").write_text(CLASSES)
    return tmp_path / "d"


def image(root: Path, split: str, number: int) -> Path:
    return root / "images" / split / f"{number}.png"


def label(root: Path, split: str, number: int) -> Path:
    return root / "labels" / split / f"{number}.png"


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def set_pixel(path: Path, value: int) -> None:
    array = np.array(Image.open(path))
    array[-1, -1] = value
    put(path, array)


def folder(root: Path) -> dict[str, Any]:
    return {
        "dataset": "folder",
        "data": {"root": str(root), "classes": str(root / "classes.toml")},
        "protocol": "stego320@2[eval_side=32]",
        "training": {"side": 32},
    }


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were trained, in order."""
    done: list[str] = []
    train = runner._train

    def noting(setup: Setup, *rest: Any) -> Trained:
        done.append(setup.spec.name)
        return train(setup, *rest)

    monkeypatch.setattr(runner, "_train", noting)
    return done


class Cells:
    """Runs cells that may take their state from the cache."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, method: str = "smooseg", out: str = "results", **more: Any) -> Entry:
        seed, force, reuse = more.pop("seed", 0), more.pop("force", ""), more.pop("reuse", True)
        setup = self.setup(method, **more)
        return run_cell(
            setup,
            seed,
            store=self.run.store(setup),
            pool=FakePool(),
            out=self.run.folder / out,
            crf_engine="lattice",
            snapshot_seconds=0,
            force=force,
            reuse=reuse,
        )

    def setup(self, method: str = "smooseg", **more: Any) -> Setup:
        return self.run.setup(method, **{"backbone": "patchstats", "params": FEW, **more})


@pytest.fixture
def checking(run: Run) -> Cells:
    return Cells(run)


@pytest.fixture
def cells(run: Run, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """The same without the process that checks splits, which takes seconds."""

    def check(dataset: Dataset, split: str, *, limit: int | None, **_: Any) -> SplitReport:
        return check_split(dataset, split, limit=limit)

    monkeypatch.setattr("uss_bench.experiment.setup.check_split_apart", check)
    return Cells(run)


def content(entry: Entry) -> Any:
    """Return all of a result that depends neither on the clock nor on where its state came from."""
    arrays, record = read_arrays(entry.path, entry.record), entry.record
    counts = {key: value.tolist() for key, value in arrays.counts.items()}
    notes = [note for note in record.notes if not note.startswith("trained state reused")]
    said = (record.id, record.curves, record.candidates, record.monitor, record.selected, record.last, notes)
    return said, counts, read_state(entry.path, record)


def kept(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob(f"{STATES}/*/{NOTE}"))


# --- The same result, with and without training ---------------------------------------------------


@pytest.mark.parametrize("method", ["dino", "smooseg", "ds2dl", "stego"])
def test_a_record_from_a_kept_state_equals_one_that_was_trained_afresh(cells, trainings, method):
    first = cells(method)
    reused, fresh = cells(method, protocol=OTHER), cells(method, "fresh", protocol=OTHER, reuse=False)
    assert trainings == [method] * 2, "the first and the fresh one"
    assert content(reused) == content(fresh)
    assert f"trained state reused from record {first.record.id}" in reused.record.notes
    assert reused.record.phases["train"] == first.record.phases["train"], "it says what training took"
    assert first.record.id != reused.record.id
    assert [one.step for one in reused.record.candidates] == [one.step for one in first.record.candidates]
    assert method == "dino" or reused.record.candidates != first.record.candidates, "they are scored again"


def test_a_run_upon_another_shares_its_state_where_the_other_run_did(cells, trainings):
    few = {name: FEW[name] for name in ("steps", "batch_size")}
    for protocol in (SMALL, f"{SMALL[:-1]},alpha=2]"):
        cells("dino", protocol=protocol, params=few)
        cells("booster-like", protocol=protocol, params={**few, "base": {"method": "dino", "params": few}})
    assert trainings == ["dino", "booster-like"]


# --- What shares a state --------------------------------------------------------------------------

SHARED: dict[str, dict[str, Any]] = {
    "another protocol": {"protocol": OTHER},
    "another temperature": {"protocol": f"{SMALL[:-1]},alpha=2]"},
    "no CRF": {"protocol": f"{SMALL[:-1]},crf=none]"},
    "other labels": {"data": {"swapped": True}},
    "remarks": {"notes": ["one"], "labels_used": ["tuning"]},
}
APART: dict[str, dict[str, Any]] = {
    "a parameter": {"params": FEW | {"steps": 7}},
    "another training geometry": {"training": {"side": 64}},
    "crops": {"training": {"side": 96, "crops": "five"}},
    "float32 features": {"feature_dtype": "float32"},
    "another backbone": {"backbone": "dense_sift"},
    "fewer training images": {"limit": 3},
    "no classes": {"data": {"labeled": False}, "params": FEW | {"clusters": 2}},
}


def place(setup: Setup, seed: int = 0, here: dict[str, Any] = HERE) -> Path:
    found = stored_state(setup.beginning(seed, Path("nowhere")), seed, here)
    assert found is not None
    return found.folder


@pytest.mark.parametrize("what", SHARED)
def test_what_is_of_evaluation_only_shares_a_state(cells, what):
    first, other = cells.setup(), cells.setup(**SHARED[what])
    assert place(first) == place(other)
    assert training_key(first, 0) == training_key(other, 0)
    same = ("remarks", "another temperature")  # the method states its own
    assert (first.cell(0).id == other.cell(0).id) == (what in same)


@pytest.mark.parametrize("what", APART)
def test_what_decides_training_has_a_state_of_its_own(cells, what):
    first, other = cells.setup(), cells.setup(**APART[what])
    assert place(first) != place(other)
    assert training_key(first, 0) != training_key(other, 0)


def test_another_seed_machine_code_or_image_has_a_state_of_its_own(cells, root):
    setup = cells.setup(**folder(root))
    places = {
        "itself": place(setup),
        "seed": place(setup, 1),
        "code": place(dataclasses.replace(setup, code="0" * 12)),
        "classes": place(
            dataclasses.replace(setup, dataset=Fewer(setup.dataset)),
        ),
    }
    for name in ("threads", "device", "torch", "numpy", "processor", "system", "python", "uss-bench"):
        places[name] = place(setup, here=HERE | {name: "another"})
    for name in ("git", "cores"):
        assert place(setup, here=HERE | {name: "another"}) == places["itself"]
    set_pixel(label(root, "test", 3), 1 - int(np.array(Image.open(label(root, "test", 3)))[-1, -1]))
    set_pixel(label(root, "train", 3), 1 - int(np.array(Image.open(label(root, "train", 3)))[-1, -1]))
    set_pixel(image(root, "test", 3), 7)
    assert place(cells.setup(**folder(root))) == places["itself"], "labels and test images decide nothing"
    set_pixel(image(root, "train", 3), 7)
    places["a training image"] = place(cells.setup(**folder(root)))
    assert len(set(places.values())) == len(places)


class Fewer:
    """A dataset with another number of classes."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._dataset, name)
        return found[:-1] if name == "classes" else found


def test_maps_of_the_training_images_decide_a_state_and_those_of_test_images_do_not(cells, root, tmp_path):
    def write(name: str, split: str, value: int) -> None:
        for number in range(4):
            put(tmp_path / name / f"{split}{number}.png", np.full((40, 48), value, np.uint8))

    for path in sorted(root.glob("*/*/*.png")):  # or a map would be of two images
        path.rename(path.with_name(f"{path.parent.name}{path.name}"))
    for name, train, test in (("one", 1, 1), ("test", 1, 2), ("train", 2, 1)):
        write(name, "train", train)
        write(name, "test", test)
    found = {
        name: cells.setup(**folder(root), aux={"depth": str(tmp_path / name)})
        for name in ("one", "test", "train")
    }
    assert len({one.cell(0).id for one in found.values()}) == 3
    assert place(found["one"]) == place(found["test"]) != place(found["train"])


# --- Test labels ----------------------------------------------------------------------------------


def test_a_wrong_pixel_in_the_last_test_label_ends_a_run_before_training(checking, root, trainings):
    cells = checking
    set_pixel(label(root, "test", 3), 77)
    with pytest.raises(DataError, match=r"labels/test/3\.png holds the value 77"):
        cells(**folder(root))
    assert not trainings
    [failed] = cells.run.results.rglob("*.failed.json")
    assert "holds the value 77" in read_record(failed).reason
    set_pixel(label(root, "test", 3), 1)
    assert cells(**folder(root)).record.status == "done"


def test_a_mended_test_label_does_not_train_again(cells, root, trainings):
    before = cells(**folder(root))
    path = label(root, "test", 3)
    set_pixel(path, 1 - int(np.array(Image.open(path))[-1, -1]))
    after, fresh = cells(**folder(root)), cells(**folder(root), out="fresh", reuse=False)
    assert trainings == ["smooseg"] * 2, "the first and the fresh one"
    assert after.record.id != before.record.id
    assert content(after) == content(fresh) != content(before)


@pytest.mark.parametrize("match_on", ["test", "train"])
def test_the_labels_that_are_scored_are_checked_in_another_process(checking, root, monkeypatch, match_on):
    cells = checking
    read: list[str] = []
    label_of = ValidatedLabels.label

    def noting(self: Labels, index: int) -> np.ndarray:
        read.append(self.ids[index])
        return label_of(self, index)

    monkeypatch.setattr(ValidatedLabels, "label", noting)
    train = runner._train

    def trained(*given: Any) -> Trained:
        assert not read, "no label was decoded in the process that trains"
        return train(*given)

    monkeypatch.setattr(runner, "_train", trained)
    asked = folder(root) | {"protocol": f"stego320@2[eval_side=32,match_on={match_on}]"}
    cells(**asked)
    assert read
    set_pixel(label(root, "train", 0), 78)
    if match_on == "train":
        with pytest.raises(DataError, match=r"labels/train/0\.png holds the value 78"):
            cells(**asked, out="again")


# --- What is read is what was written -------------------------------------------------------------


def test_every_changed_byte_is_noticed_and_costs_one_training(cells, trainings, cache, tmp_path):
    whole = cells(protocol=OTHER, reuse=False, out="whole")
    cells()
    [place] = kept(cache)
    shutil.copytree(place, tmp_path / "sound")
    files = sorted(path.name for path in (tmp_path / "sound").iterdir() if path.name != "lock")
    assert files == [
        *(f"checkpoint-0000000{step}.safetensors" for step in (2, 4, 6)),
        "last.safetensors",
        NOTE,
    ]
    for number, name in enumerate(files):
        size = (tmp_path / "sound" / name).stat().st_size
        for turn, damage in enumerate(("cut", "gone", 0, size // 2)):
            shutil.copytree(tmp_path / "sound", place, dirs_exist_ok=True)
            spoil(place / name, damage)
            del trainings[:]
            again = cells(protocol=OTHER, out=f"again-{number}-{turn}")
            assert trainings == ["smooseg"], f"{name} {damage}"
            assert content(again) == content(whole)
            assert not any(note.startswith("trained state") for note in again.record.notes)
    del trainings[:]
    cells(out="last")
    assert not trainings, "what was damaged was written again"


def spoil(path: Path, damage: str | int) -> None:
    found = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
        return
    if isinstance(damage, int):
        found[damage] ^= 1
    path.write_bytes(found[:-9] if damage == "cut" else found)


class Killed(BaseException):
    """What ends a process in the middle, as far as the code that it ends can tell."""


@pytest.mark.parametrize("reads", [False, True])
def test_a_kill_at_any_write_leaves_nothing_half_written(cells, trainings, cache, monkeypatch, reads):
    """Killed before and after each file that keeping a state, or taking one, writes."""
    whole = cells(protocol=OTHER, reuse=False, out="whole")
    write, left = states.atomic_write, [0]

    def killing(path: Path, content: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(path, content)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    writes = 2 * (3 if reads else 5)
    for moment in range(1, writes + 1):
        shutil.rmtree(cache / STATES, ignore_errors=True)
        if reads:
            cells(out=f"first-{moment}")
        left[0] = moment
        with monkeypatch.context() as patch:
            patch.setattr(states, "atomic_write", killing)
            with pytest.raises(Killed):
                cells(protocol=OTHER, out=f"killed-{moment}")
        assert len(kept(cache)) == (reads or moment == writes)
        del trainings[:]
        other = cells(out=f"other-{moment}")
        assert trainings == ["smooseg"] * (not reads and moment < writes)
        again = cells(protocol=OTHER, out=f"killed-{moment}")
        assert content(again) == content(whole)
        assert other.record.id != again.record.id
        assert len(trainings) <= 1


def test_a_state_that_is_pruned_while_it_is_evaluated_is_not_missed(cells, cache, monkeypatch):
    cells()
    evaluator = runner.make_evaluator

    def pruned(*given: Any, **more: Any) -> Any:
        shutil.rmtree(cache / STATES)
        return evaluator(*given, **more)

    monkeypatch.setattr(runner, "make_evaluator", pruned)
    assert cells(protocol=OTHER).record.candidates


def test_training_that_went_on_elsewhere_is_not_kept(cells, cache, monkeypatch):
    steps = RunContext.steps

    def until(self: RunContext, total: int, /, **keep: Any) -> Any:
        for number in steps(self, total, **keep):
            if number == 4:
                raise Killed
            yield number

    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "steps", until)
        with pytest.raises(Killed):
            cells()
    monkeypatch.setattr("uss_bench.training.context.processor", lambda: "another")
    assert "training resumed after step 3 on another kind of machine" in cells().record.notes
    assert not kept(cache)


def test_training_on_images_that_changed_meanwhile_is_not_kept(cells, cache, monkeypatch):
    setup = cells.setup()
    train = runner._train

    def changing(*given: Any) -> Trained:
        trained = train(*given)
        monkeypatch.setattr(type(setup.train_images), "fingerprint", lambda self: "another")
        return trained

    monkeypatch.setattr(runner, "_train", changing)
    with pytest.raises(DataError, match="Images or labels of 'tiny' changed"):
        cells()
    assert not kept(cache)


def test_a_method_that_is_defined_in_python_is_trained_every_time(cells):
    setup = cells.setup()
    plugin = dataclasses.replace(setup.plugin, made=setup.plugin.load())
    assert stored_state(setup, 0, HERE) is not None
    assert stored_state(dataclasses.replace(setup, plugin=plugin), 0, HERE) is None


# --- Orders, room and permissions -----------------------------------------------------------------


def test_force_trains_again_and_once_for_all_cells_of_a_command(cells, trainings):
    cells()
    for number in range(2):
        token = new_rerun_token()
        cells(force=token), cells(protocol=OTHER, force=token)
        assert len(trainings) == number + 2
    cells(protocol=OTHER, force=new_rerun_token(), out="elsewhere")
    assert len(trainings) == 4, "what is kept was trained under another order"


def test_the_states_used_longest_ago_make_room(cells, cache, monkeypatch):
    cells(seed=0), cells(seed=1)
    first, second = sorted(kept(cache), key=lambda path: (path / NOTE).stat().st_mtime)
    size = sum(path.stat().st_size for path in states.files_of(first))
    os.utime(second / NOTE, (1, 1))
    os.utime(first / NOTE, (2, 2))
    cells(seed=0, protocol=OTHER)
    assert (first / NOTE).stat().st_mtime > 2, "what is used is young again"
    monkeypatch.setattr(states, "LARGEST", int(2.5 * size))
    cells(seed=2)
    assert first in kept(cache)
    assert second not in kept(cache)
    assert len(kept(cache)) == 2
    monkeypatch.setattr(states, "LARGEST", size // 2)
    cells(seed=3)
    assert len(kept(cache)) == 2, "what does not fit is not kept, and nothing goes for it"


def test_a_cache_that_cannot_be_written_costs_the_training_and_nothing_else(
    cells, cache, trainings, monkeypatch
):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    cells()
    with monkeypatch.context() as patch:
        patch.setattr(states, "locked", refuse)
        assert cells(protocol=OTHER).record.notes, "what is there is read all the same"
        assert len(trainings) == 1
        cells(seed=1)
    assert len(kept(cache)) == 1
    monkeypatch.setattr(states, "atomic_write", refuse)
    cells(seed=2)
    assert len(kept(cache)) == 1
    assert len(trainings) == 3


def test_a_note_cannot_name_files_elsewhere(tmp_path):
    place = StoredState({"a": 1}, tmp_path)
    place.folder.mkdir(parents=True)
    note = states.Note(
        inputs={},
        source="x",
        rerun_token="",
        files={"last.safetensors": "", "../../checkpoint-00000001.safetensors": ""},
        offers=[],
        curves={},
        notes=[],
        phase=states.Phase(seconds=0, peak_bytes=None),
    )
    content = msgspec.json.encode(note)
    digest = states.hashlib.sha256(content).hexdigest().encode()
    (place.folder / NOTE).write_bytes(digest + b"\n" + content)
    with pytest.raises(DataError, match="is not a note"):
        states.read_note(place.folder)
    assert not place.exists()


# --- Commands -------------------------------------------------------------------------------------

CELL = [
    *("--method", "smooseg", "--dataset", "tiny", "--plugin", PLUGINS, "--backbone", "patchstats"),
    *("--training", "side=96", "--threads", 1, "--workers", 1, "--device", "cpu"),
    *(word for name, value in FEW.items() for word in ("--set", f"{name}={value}")),
]
TWO = ["--protocol", SMALL, "--protocol", OTHER]


def records(out: Path) -> list[Any]:
    found = [read_record(path) for path in sorted(out.rglob("smooseg-*.json"))]
    return sorted(found, key=lambda record: record.created)


def reused(out: Path) -> list[bool]:
    return [any(note.startswith("trained state reused") for note in one.notes) for one in records(out)]


def test_two_protocols_train_once_and_a_dry_run_says_so(command, tmp_path, trainings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", *CELL, *TWO]
    dry = command(*words, "--dry-run")
    assert "2 of 2 cells pending. 1 cell of them without training" in dry.out
    said = command(*words)
    assert said.code == 0, said.err
    assert trainings == ["smooseg"]
    assert reused(tmp_path / "results") == [False, True]
    assert SMALL in said.out
    assert OTHER in said.out
    assert "2 cells of them without training" in command(*words, "--out", "other", "--dry-run").out
    assert "1 cell of them without training" in command(*words, "--force", "--dry-run").out
    assert "without training" not in command("run", *CELL, "--seed", 5, "--dry-run").out
    command(*words, "--force")
    assert trainings == ["smooseg"] * 2


def test_a_plan_may_name_several_protocols(command, tmp_path, trainings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(
        f"""
        [[runs]]
        method = "smooseg"
        dataset = "tiny"
        backbone = "patchstats"
        protocol = ["{SMALL}", "{OTHER}"]
        training = {{ side = 96 }}
        set = {{ steps = 6, batch_size = 4, checkpoint_every = 2 }}
        """
    )
    here = ["--plugin", PLUGINS, "--threads", 1, "--workers", 1]
    assert command("run", "--plan", "plan.toml", *here).code == 0
    assert trainings == ["smooseg"]
    assert reused(tmp_path / "results") == [False, True]


def test_jobs_wait_for_the_one_that_trains(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command("run", *CELL, *TWO, "--jobs", 2)
    assert said.code == 0, said.err
    assert reused(tmp_path / "results") == [False, True]
    logs = [path.read_text() for path in (tmp_path / "results").rglob("*.log")]
    assert not any("waiting for it" in log for log in logs), "no process is idle"


def test_two_commands_at_once_train_once(tmp_path):
    code = "from uss_bench.cli import main; main()"
    words = [str(word) for word in (sys.executable, "-c", code, "run", *CELL)]
    started = [
        subprocess.Popen([*words, "--protocol", protocol], cwd=tmp_path, stderr=subprocess.PIPE)
        for protocol in (SMALL, OTHER)
    ]
    said = [one.communicate()[1].decode() for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    assert sorted(reused(tmp_path / "results")) == [False, True]


def test_rerun_trains_afresh_and_finds_the_counts_of_a_reused_state(
    command, tmp_path, trainings, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command("run", *CELL, *TWO)
    [path] = [path for path in (tmp_path / "results").rglob("smooseg-*.json") if any(_notes(path))]
    said = command("rerun", path, "--plugin", PLUGINS)
    assert said.code == 0, said.err
    assert "Every count is equal." in said.out
    assert trainings == ["smooseg"] * 2


def _notes(path: Path) -> list[bool]:
    return [note.startswith("trained state reused") for note in read_record(path).notes]


def test_the_cache_commands_show_verify_and_prune_states(command, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("run", *CELL, "--protocol", SMALL)
    [place] = kept(cache)
    shown = command("cache", "du").out
    assert f"{place.name[:8]}" in shown
    assert "smooseg, seed 0" in shown
    assert "1 trained state" in shown
    assert command("cache", "verify").code == 0
    spoil(place / "checkpoint-00000004.safetensors", 40)
    said = command("cache", "verify")
    assert said.code == 1
    assert "checkpoint-00000004.safetensors is damaged" in said.err
    (place / NOTE).unlink()
    assert "never finished" in command("cache", "prune", "--partial").out
    assert command("cache", "prune", "--partial", "--yes").code == 0
    assert [path.name for path in place.iterdir()] in ([], ["lock"])
    assert "trained state" not in command("cache", "du").out
