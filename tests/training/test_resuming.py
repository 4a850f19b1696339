"""A run that is killed goes on where it was, and ends with the record of one that was not."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakePool
from torch import nn

from uss_bench.errors import ContractError, DataError
from uss_bench.experiment.runner import run_cell
from uss_bench.files.locks import locked
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.results.files import new_rerun_token, read_arrays, read_state
from uss_bench.runtime import progress
from uss_bench.training.context import RunContext
from uss_bench.training.snapshots import read_snapshot, restore, save_snapshot
from uss_bench.training.workspace import Workspace

CPU = torch.device("cpu")
IN_BLOCKS = {
    "eagle": {"dim": 8, "samples": 3, "switch_after": 2},
    "ppap": {"split": 64},
    "hp": {"dim": 8, "pool_size": 8, "renew_every": 2, "warmup": 2},
}
"""Further parameters of the methods that read a network's blocks, which patchstats does not have."""
SMALL = {
    "depthg": {"samples": 4, "depth_decay_every": 2, "samples_decay_every": 3},
    "equss": {"dim": 32, "parts": 4, "entries": 8},
    "reib": {"hidden": 8},
    "pca": {"dim": 16},
}
"""Parameters that make a method fit small features, or its steps quick."""
CONTROLS = ("randproj", "debias", "ncut")
METHODS = ("dino", "smooseg", "ds2dl", "stego", *IN_BLOCKS, *SMALL, *CONTROLS)
STEPS = 7


class Killed(BaseException):
    """What ends a process in the middle, as far as the code that it ends can tell."""


class Cell:
    """One cell that runs, is killed at a step, and runs again."""

    def __init__(self, run, method: str, seed: int = 0, **params) -> None:
        few = {"steps": STEPS, "batch_size": 4, "checkpoint_every": 2, **SMALL.get(method, {})}
        self.run = run
        small = {"backbone": "patchstats"}
        if method in IN_BLOCKS:
            small = {"backbone": "planted-net", "training": {"side": 32}}
        dataset = "planted" if method == "depthg" else "tiny"  # the one with depth
        self.setup = run.setup(method, dataset, **small, params=few | IN_BLOCKS.get(method, {}) | params)
        self.seed = seed

    def __call__(self, out: str = "results", *, force: str = ""):
        return run_cell(
            self.setup,
            self.seed,
            store=self.run.store(self.setup),
            pool=FakePool(),
            out=self.run.folder / out,
            crf_engine="lattice",
            snapshot_seconds=0,
            force=force,
        )

    def workspace(self, out: str = "results") -> Workspace:
        return Workspace.of(self.run.folder / out, self.setup.cell(self.seed))


@pytest.fixture
def kill(monkeypatch):
    """Kill training in the middle of a step, once; the snapshot of the step before stays."""

    def at(step: int) -> None:
        steps = RunContext.steps

        def until(self, total, /, **keep):
            for number in steps(self, total, **keep):
                if number == step:
                    monkeypatch.setattr(RunContext, "steps", steps)
                    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - what a step may do
                    raise Killed
                yield number

        monkeypatch.setattr(RunContext, "steps", until)

    return at


def contents(outcome):
    """Return all of a result that depends neither on the clock nor on interruptions."""
    arrays, record = read_arrays(outcome.path, outcome.record), outcome.record
    counts = {key: value.tolist() for key, value in arrays.counts.items()}
    maps = {key: value.tolist() for key, value in arrays.maps.items()}
    notes = [note for note in record.notes if not note.startswith("training resumed")]
    said = (record.id, record.curves, record.candidates, record.monitor, notes, record.selected)
    return said, counts, maps, read_state(outcome.path, record)


@pytest.mark.parametrize("step", [1, 2, 5, STEPS])
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_with_the_record_of_one_that_was_not(run, kill, method, step):
    cell = Cell(run, method)
    whole = cell("whole")
    kill(step)
    with pytest.raises(Killed):
        cell("killed")
    assert cell.workspace("killed").folder.exists() == (step > 1), "there is a snapshot"
    trained = []
    resumed = RunContext._resume

    def noting(self, *arguments):
        trained.append(resumed(self, *arguments))
        return trained[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunContext, "_resume", noting)
        again = cell("killed")
    assert trained == [step - 1], "it went on, and did not begin again"
    assert again.record.notes == [f"training resumed after step {step - 1}"] * (step > 1)
    assert contents(again) == contents(whole)
    assert not cell.workspace("killed").folder.parent.exists(), "what the kill left is gone"


def test_a_run_killed_while_it_is_evaluated_does_not_train_again(run, monkeypatch):
    cell = Cell(run, "smooseg")
    whole = cell("whole")
    with monkeypatch.context() as patch:
        patch.setattr(FakePool, "labels", lambda self, items, names: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            cell("killed")
    module = type(cell.setup.make_method())
    with monkeypatch.context() as patch:
        patch.setattr(module, "losses", lambda *_: pytest.fail("it trained again"))
        again = cell("killed")
    assert contents(again) == contents(whole)


def test_seconds_of_training_survive_a_kill(run, kill, monkeypatch):
    cell = Cell(run, "dino")
    kill(5)
    with pytest.raises(Killed):
        cell()
    path = cell.workspace().folder / "training-0.snapshot"
    content = read_snapshot(path, *kept_by_dino(cell))
    before = content["extra"]["seconds"]
    monkeypatch.setattr(
        "uss_bench.training.context.read_snapshot",
        lambda *_: {**content, "extra": {**content["extra"], "seconds": before + 1000}},
    )
    seconds = cell().record.phases["train"].seconds
    assert 1000 < seconds < 1000 + before + 60


def kept_by_dino(cell):
    return dict.fromkeys(("centroids", "seen", "batches")), CPU


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "checkpoint"])
def test_a_damaged_snapshot_costs_time_and_nothing_else(run, kill, damage, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_quiet", False)  # an earlier command may have asked for quiet
    cell = Cell(run, "smooseg")
    whole = cell("whole")
    kill(6)
    with pytest.raises(Killed):
        cell("killed")
    folder = cell.workspace("killed").folder
    path = folder / ("checkpoint-00000002.safetensors" if damage == "checkpoint" else "training-0.snapshot")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt = {"cut": content[:-9], "empty": b""}.get(damage, content)
    path.write_bytes(bytes(spoilt))
    again = cell("killed")
    assert "Training begins again, for its snapshot cannot be used" in capsys.readouterr().err
    assert contents(again) == contents(whole)


def test_another_kind_of_machine_is_told(run, kill, monkeypatch):
    cell = Cell(run, "dino")
    kill(5)
    with pytest.raises(Killed):
        cell()
    monkeypatch.setattr("uss_bench.training.context.processor", lambda: "another")
    assert cell().record.notes == ["training resumed after step 4 on another kind of machine"]


def test_a_failed_run_keeps_what_it_had_and_force_forgets_it(run, monkeypatch):
    cell = Cell(run, "dino")
    with monkeypatch.context() as patch:
        patch.setattr(
            FakePool,
            "labels",
            lambda self, items, names: (_ for _ in ()).throw(DataError("the disk is full")),
        )
        with pytest.raises(DataError):
            cell()
    workspace = cell.workspace()
    assert (workspace.folder / "training-0.snapshot").exists()
    outcome = cell(force=new_rerun_token())
    assert outcome.record.status == "done"
    assert not workspace.folder.exists()


def test_what_was_begun_under_an_order_goes_on_under_it_though_an_older_record_is_there(
    run, kill, capsys, monkeypatch
):
    """A launcher starts the same task again; another command begins from the start."""
    monkeypatch.setattr(progress, "_quiet", False)
    cell = Cell(run, "smooseg")
    whole = cell()
    first, second = new_rerun_token(), new_rerun_token()
    for order, step, goes_on in ((first, 4, False), (first, 6, True), (second, 4, False)):
        kill(step)
        with pytest.raises(Killed):
            cell(force=order)
        assert ("Training goes on" in capsys.readouterr().err) == goes_on
        cell.workspace().tidy()
    again = cell(force=second)
    assert contents(again) == contents(whole)
    assert "Training goes on after step 3" in capsys.readouterr().err
    assert cell(force=second).record.created == again.record.created, "it is done"
    assert not cell.workspace().folder.exists()


def test_a_state_that_could_not_be_read_again_is_told_when_it_is_first_written(tmp_path):
    class Sampler:
        def state_dict(self):
            return {"order": np.arange(3)}

        def load_state_dict(self, state):
            pass

    with pytest.raises(ContractError, match="kept of sampler cannot be read again"):
        save_snapshot(tmp_path / "training-0.snapshot", {"sampler": Sampler()}, {})
    assert not any(tmp_path.iterdir())


# --- One cell, several processes -----------------------------------------------------------------


def test_a_cell_with_a_record_is_not_run_again(run, monkeypatch):
    cell = Cell(run, "dino")
    first = cell()
    monkeypatch.setattr("uss_bench.experiment.runner._run", lambda *_: pytest.fail("it ran again"))
    assert cell().record == first.record


@pytest.mark.parametrize("left", ["", "lock"])
def test_what_a_kill_in_the_last_moment_left_is_tidied_up(run, left):
    path = Cell(run, "dino")().path
    workspace = Workspace.beside(path)
    if left:
        workspace.folder.mkdir(parents=True)
        workspace.lock.touch()
    else:
        workspace.folder.parent.mkdir()
    workspace.tidy()
    assert not workspace.folder.parent.exists()


def test_a_folder_that_another_process_removes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """That process finishes the same cell: it removes the folder of the cell, and then the one above."""
    workspace, make, calls = Workspace.beside(tmp_path / "tiny" / "cell.json"), Path.mkdir, 0

    def interfered(path: Path, *arguments, **keywords) -> None:
        nonlocal calls
        calls += path == workspace.folder
        if calls == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        make(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "mkdir", interfered)
    with workspace.claim():
        assert workspace.is_busy()


def test_a_cell_at_work_is_busy(run, tmp_path):
    workspace = Cell(run, "dino").workspace()
    assert not workspace.is_busy()
    with workspace.claim():
        assert workspace.is_busy()
    assert not workspace.is_busy()
    with locked(tmp_path / "other.lock", print, "does something else"):
        assert not workspace.is_busy()


def test_results_that_cannot_be_written_are_told_before_the_work(run, monkeypatch):
    (run.folder / "results").write_text("a file")
    with pytest.raises(DataError, match="Results cannot be written to"):
        Cell(run, "dino")()


# --- Snapshots -----------------------------------------------------------------------------------


def things(seed: int):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = torch.optim.RAdam([{"params": net.parameters(), "lr": 0.01 * (seed + 1)}])
    generator = torch.Generator().manual_seed(seed)
    batches = ShuffledBatches(10, 3, torch.Generator().manual_seed(seed))
    return {
        "net": net,
        "optimizer": optimizer,
        "generator": generator,
        "batches": batches,
        "tensor": torch.full((2,), float(seed)),
    }


def step(kept) -> list[float]:
    rows = torch.tensor(next(kept["batches"]), dtype=torch.float32)
    noise = torch.rand(3, 3, generator=kept["generator"])
    loss = kept["net"](noise * rows[:, None]).square().sum() + float(np.random.rand())  # noqa: NPY002
    kept["optimizer"].zero_grad()
    loss.backward()
    kept["optimizer"].step()
    kept["tensor"].add_(random.random())
    return [loss.item(), *kept["tensor"].tolist()]


def test_a_snapshot_holds_all_that_the_next_steps_depend_on(tmp_path):
    kept = things(0)
    for _ in range(5):
        step(kept)
    save_snapshot(tmp_path / "snapshot", kept, {"step": 5})
    expected = [step(kept) for _ in range(6)]
    others = things(1)
    step(others)
    found = read_snapshot(tmp_path / "snapshot", others, CPU)
    assert found["extra"] == {"step": 5}
    restore(found, others)
    assert [step(others) for _ in range(6)] == expected


def test_no_snapshot_is_none_and_one_of_other_things_an_error(tmp_path):
    assert read_snapshot(tmp_path / "snapshot", {}, CPU) is None
    save_snapshot(tmp_path / "snapshot", {"a": torch.zeros(2)}, {})
    with pytest.raises(DataError, match="holds a, and not b"):
        read_snapshot(tmp_path / "snapshot", {"b": torch.zeros(2)}, CPU)


def test_what_has_no_state_is_told_by_its_name(tmp_path):
    with pytest.raises(ContractError, match=r"'schedule' is to be kept .* a list has no state_dict"):
        save_snapshot(tmp_path / "snapshot", {"schedule": [1, 2]}, {})
