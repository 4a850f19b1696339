"""A run that is killed at the end of a pass of its second epoch."""

from __future__ import annotations

from typing import Any

import pytest
from running import Run

from uss_bench.results.collection import Entry
from uss_bench.training.context import RunContext


class Killed(BaseException):
    """What ends a process in the middle."""


def resumed(run: Run, monkeypatch: pytest.MonkeyPatch, pass_: str, method: str, **request: Any) -> Entry:
    """Return the run of a method that was killed in the last step of a pass, and went on."""
    steps, epochs = RunContext._steps, [0]

    def until(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            if label == "epochs":
                epochs[0] = step
            elif label == pass_ and epochs[0] == 2 and step == total:
                raise Killed
            yield step

    again = Run(run.registry, run.folder / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", until)
        with pytest.raises(Killed):
            again(method, snapshot_seconds=0, force="token", **request)
    outcome = again(method, snapshot_seconds=0, force="token", **request)
    assert any("resumed" in note for note in outcome.record.notes)
    return outcome
