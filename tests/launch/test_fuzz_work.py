"""Spoilt files of work in progress: plans, tasks, states, snapshots, sidecars, golden results."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from fuzzing import FUZZ, ROOT, ignore_warnings, reading, spoilt, survives
from hypothesis import given
from hypothesis import strategies as st

from uss_bench.experiment.cells import CellSpec, CellWork, Execution, read_work
from uss_bench.experiment.plan_file import read_plan
from uss_bench.features.shards import Shards, Sidecar
from uss_bench.features.verified import Verified
from uss_bench.launch.launcher import State
from uss_bench.launch.launchers import launcher_options
from uss_bench.launch.slurm import JobList
from uss_bench.launch.stored import Now, PlanFolder, StoredPlan, read_now
from uss_bench.plugins.registry import Registry
from uss_bench.regression.golden import INDEX, read_golden
from uss_bench.training.snapshots import read_snapshot, save_snapshot

pytestmark = ignore_warnings

PLAN = b"""
name = "comparison"
[defaults]
dataset = "toy3"
set = { clusters = 3 }
[[runs]]
method = ["dino", "smooseg"]
seeds = 2
[[runs]]
method = "random"
dataset = ["toy3", "toy27"]
limit = 10
"""
CELL = CellSpec(method="dino", dataset="toy3", params={"steps": 3, "deep": [1, {}]})
WORK = CellWork(cell=CELL, execution=Execution(out="results"), id="0123456789abcdef")
STATE = State("failed", "the node went down", "node1")
STORED = StoredPlan(name="a", command="uss-bench run", folder="/", created="2026", launcher="local")
GOLDEN = ROOT / "leaderboards" / "golden"


def sidecar() -> bytes:
    plain = Sidecar(3, 1000, 12345, 48, [1.5, 2.25], [3.5, 0.1])
    return msgspec.json.encode(msgspec.structs.replace(plain, digest=plain.own_digest()))


def read_sidecar(path: Path) -> None:
    shards = Shards(path.parent.parent, {path.parent.name: (1,)}, torch.zeros(1).numpy().dtype, 1)
    place = shards.sidecar_path(path.parent.name, 0)
    shutil.copy(path, place)
    found = shards.sidecar(path.parent.name, 0)
    assert found is None or found == msgspec.json.decode(sidecar(), type=Sidecar), "damage went unseen"


READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "plan.toml": (lambda path: read_plan(path, Registry()), PLAN),
    "launcher.toml": (
        lambda path: launcher_options(path, {}),
        b'partition = "gpu"\nminutes = 60\ngpus = 1\n',
    ),
    "task.json": (read_work, msgspec.json.encode(WORK)),
    "task.now": (read_now, msgspec.json.encode(Now(host="a", pid=1, started=1.5, phase="train", total=9))),
    "plan": (lambda path: PlanFolder(path.parent).read(), msgspec.json.encode(STORED)),
    "states": (lambda path: PlanFolder(path.parent).read_states(), json.dumps({"a": {"state": {}}}).encode()),
    "slurm-000000.jobs": (lambda path: JobList(path.parent).read(), msgspec.json.encode({"a": "12_3"})),
    "checked.json": (Verified, b'{"a.npy": {"bytes": 1, "modified": 2, "changed": 3, "read": 4.5}}'),
    "sidecar": (read_sidecar, sidecar()),
}


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(st.data())
def test_files_of_work(name: str, data: st.DataObject) -> None:
    read, whole = READERS[name]
    survives(read, data.draw(spoilt([whole])), name)


@FUZZ
@given(st.data())
def test_golden_results(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "golden"
        shutil.copytree(GOLDEN, copy)
        name = data.draw(st.sampled_from([INDEX, "dino-toy3-s0.npz"]))
        (copy / name).write_bytes(data.draw(spoilt([(GOLDEN / name).read_bytes()])))
        with reading():
            read_golden(copy)


@FUZZ
@given(st.data())
def test_snapshots(data: st.DataObject) -> None:
    kept = {"weights": torch.arange(6.0), "draws": torch.Generator().manual_seed(0)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.snapshot"
        save_snapshot(path, kept, {"step": 3})
        path.write_bytes(data.draw(spoilt([path.read_bytes()])))
        with reading():
            found = read_snapshot(path, kept, torch.device("cpu"))
            assert found is not None
            assert found["extra"] == {"step": 3}
