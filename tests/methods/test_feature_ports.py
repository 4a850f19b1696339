"""The ports of PiCIE and MDC to frozen features: they learn, go on when killed, and their switches matter."""

from __future__ import annotations

import pytest
from planted import accuracy, kmeans
from running import Run

from uss_bench.results.files import read_state
from uss_bench.training.context import RunContext

PORTS = ("picie_proj", "mdc_proj")
SMALL = {
    "clusters": 4,
    "epochs": 2,
    "dim": 8,
    "batch_size": 4,
    "cluster_batch_size": 2,
    "init_batches": 1,
    "init_points": 200,
    "kmeans_iterations": 3,
}
SWITCHES = {
    "dropout": 0.0,
    "flip": 0.0,
    "smallest_crop": 1.0,
    "standardize": False,
    "class_weights": "none",
    "weight_across": 0.0,
    "weight_within": 0.0,
    "classifier": "centroids",
}
CASES = [
    (port, name)
    for port in PORTS
    for name in SWITCHES
    if name.startswith("weight_") <= (port == "picie_proj") and (name == "classifier") <= (port == "mdc_proj")
]


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


@pytest.mark.parametrize(("port", "name"), CASES)
def test_every_switch_changes_what_is_learned(run, states, port, name):
    def learned(**params):
        outcome = run(port, backbone="patchstats", params={**SMALL, "epochs": 1, **params})
        return read_state(outcome.path, outcome.record)

    if port not in states:
        states[port] = learned()
    assert learned(**{name: SWITCHES[name]}) != states[port]


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("pass_", ["first centroids", "k-means", "labels", "training"])
def test_a_run_killed_in_any_pass_ends_with_the_same_state(run, states, port, pass_, monkeypatch):
    if f"{port} whole" not in states:
        outcome = run(port, backbone="patchstats", params=SMALL)
        states[f"{port} whole"] = read_state(outcome.path, outcome.record)
    steps, epochs = RunContext._steps, [0]

    def until(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            if label == "epochs":
                epochs[0] = step
            elif label == pass_ and epochs[0] == 2 and step == total:
                raise Killed
            yield step

    again = Run(run.registry, run.folder / "again")
    asked = {"backbone": "patchstats", "snapshot_seconds": 0, "force": "token", "params": SMALL}
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", until)
        with pytest.raises(Killed):
            again(port, **asked)
    outcome = again(port, **asked)
    assert any("resumed" in note for note in outcome.record.notes)
    assert read_state(outcome.path, outcome.record) == states[f"{port} whole"]


@pytest.mark.parametrize("port", PORTS)
def test_it_finds_the_planted_classes(run, port):
    found = accuracy(run, port, epochs=4, dim=16, batch_size=8, cluster_batch_size=16, lr=2e-3)
    assert found > kmeans(run) - 5
    assert found > accuracy(run, "random") + 20
