"""Trackers receive what methods report, and change no result."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
from running import PLUGINS

import uss_bench
from uss_bench.errors import UsageError
from uss_bench.runtime import tracking
from uss_bench.runtime.tracking import find_tracker, tracked

QUICK = {
    "protocol": "stego320@2[eval_side=96]",
    "training": {"side": 96},
    "plugins": [PLUGINS],
    "device": "cpu",
    "workers": 1,
    "params": {"steps": 6},
}
KEPT: list[tuple[str, str, dict, list, list]] = []


class Kept:
    def __init__(self, argument, run, settings):
        self.points, self.closed = [], []
        KEPT.append((argument, run, dict(settings), self.points, self.closed))

    def log(self, step, scalars):
        self.points.append((step, dict(scalars)))

    def close(self):
        self.closed.append(True)


@pytest.fixture
def installed(monkeypatch):
    """A tracker of an installed distribution."""
    point = importlib.metadata.EntryPoint("kept", f"{__name__}:Kept", tracking.ENTRY_POINTS)
    others = importlib.metadata.entry_points

    def entry_points(**chosen):
        return [point] if chosen == {"group": tracking.ENTRY_POINTS} else others(**chosen)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    KEPT.clear()


@pytest.mark.usefixtures("installed")
def test_a_tracker_receives_the_curves_of_a_record_and_changes_nothing(tmp_path):
    (plain,) = uss_bench.run("dino", "tiny", out=tmp_path / "plain", **QUICK)
    (sent,) = uss_bench.run("dino", "tiny", out=tmp_path / "sent", track="kept:here", **QUICK)
    ((argument, run, settings, points, closed),) = KEPT
    assert (argument, run, settings["steps"], closed) == ("here", sent.path.stem, 6, [True])
    assert {name: [(s, p[name]) for s, p in points if name in p] for name in sent.record.curves} == {
        name: [tuple(point) for point in curve] for name, curve in sent.record.curves.items()
    }
    assert (sent.record.id, sent.record.last) == (plain.record.id, plain.record.last)


@pytest.mark.usefixtures("installed")
def test_a_tracker_is_closed_when_a_run_fails():
    def broken():
        with tracked("kept:a", "run", {}):
            tracking.report(1, {"loss": 1.0})
            raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        broken()
    tracking.report(2, {"loss": 2.0})  # nobody listens any more
    ((*_, points, closed),) = KEPT
    assert (points, closed) == ([(1, {"loss": 1.0})], [True])


@pytest.mark.parametrize(
    ("spec", "message"),
    [("tensorboard", "KIND:ARGUMENT"), ("tensorboard:", "KIND:ARGUMENT"), ("tensorbord:x", "no tracker")],
)
def test_what_is_no_tracker_is_refused_before_anything_runs(command, spec, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        find_tracker(spec)
    said = command("run", "--method", "dino", "--dataset", "toy3", "--track", spec, "--out", tmp_path / "out")
    assert said.code == 2
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package wandb"):
        find_tracker("wandb:project")


def test_tensorboard_writes_events(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with tracked(f"tensorboard:{tmp_path}", "run", {"steps": 3}):
        tracking.report(1, {"loss": 0.5})
    assert list((tmp_path / "run").glob("events.*"))
