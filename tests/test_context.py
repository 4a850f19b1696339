"""The context of a run: clock, generators, curves, checkpoints and what it shares of the store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone
from safetensors.torch import load_file

from uss_bench import context as context_module
from uss_bench.context import Clock, RunContext, portable_state
from uss_bench.errors import Diverged
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items


class Linear:
    """A method with a state, and nothing else."""

    def __init__(self) -> None:
        self.weight = torch.arange(6.0).reshape(2, 3)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight, "transposed": self.weight.T}


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    options = {"positions": "dino", "device": torch.device("cpu"), "log": lambda message: None}
    return FeatureStore(tmp_path / "features", FakeBackbone(), **options)


@pytest.fixture
def make_context(tmp_path, store):
    def make(seed: int = 0, code: str = "c0de") -> RunContext:
        items = Items(ArrayImages.random(6, 9, 9), side=8, filter="nearest")
        return RunContext(
            method=Linear(), items=items, store=store, seed=seed, scratch=tmp_path, code=code, clock=Clock()
        )

    return make


class FakeTime:
    """A clock that stands still unless told to move."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(context_module, "time", fake)
    return fake


# --- Clock ---------------------------------------------------------------------------------------


def test_an_inner_phase_is_not_counted_for_the_outer_ones(time):
    clock = Clock()
    with clock.phase("train"):
        time.now += 1
        with clock.phase("extract"):
            time.now += 10
            with clock.phase("wait"):
                time.now += 100
            time.now += 20
        time.now += 2
        with clock.phase("extract"):
            time.now += 40
    seconds = {name: phase.seconds for name, phase in clock.phases.items()}
    assert seconds == {"train": 3, "extract": 70, "wait": 100}
    assert all(phase.peak_bytes > 2**20 for phase in clock.phases.values())


def test_a_phase_that_fails_is_counted(time):
    clock = Clock()

    def fail() -> None:
        with clock.phase("outer"):
            time.now += 1
            with clock.phase("inner"):
                time.now += 5
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {name: phase.seconds for name, phase in clock.phases.items()} == {"outer": 1, "inner": 5}


def test_a_phase_within_itself_is_counted_once(time):
    clock = Clock()
    with clock.phase("train"):
        time.now += 1
        with clock.phase("train"):
            time.now += 2
    assert clock.phases["train"].seconds == 3


def test_extraction_is_a_phase_of_its_own(make_context):
    context = make_context()
    context.features(["tokens"])
    assert set(context._clock.phases) == {"extract"}


# --- Generators ----------------------------------------------------------------------------------


def draw(generator: torch.Generator) -> list[int]:
    return torch.randint(2**31, (8,), generator=generator).tolist()


def test_a_generator_depends_on_the_seed_and_the_purpose_alone(make_context):
    context = make_context(seed=3)
    pairs = draw(context.generator("pairs"))
    torch.manual_seed(1)
    assert draw(context.generator("pairs")) == pairs
    assert draw(make_context(seed=3).generator("pairs")) == pairs
    assert draw(context.generator("batches")) != pairs
    assert draw(make_context(seed=4).generator("pairs")) != pairs


def test_seed_and_purpose_cannot_be_confused(make_context):
    assert draw(make_context(1).generator("1/x")) != draw(make_context(11).generator("/x"))


# --- Curves --------------------------------------------------------------------------------------


def test_reports_become_curves(make_context):
    context = make_context()
    context.report(1, loss=torch.tensor(0.5, requires_grad=True), rate=2)
    context.report(50, loss=0.25)
    assert context.curves == {"loss": [(1, 0.5), (50, 0.25)], "rate": [(1, 2.0)]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("-inf"))])
def test_a_scalar_that_is_not_finite_ends_the_run_by_its_name_and_step(make_context, value):
    with pytest.raises(Diverged, match=r"'data' is (nan|inf|-inf) at step 7\."):
        make_context().report(7, smoothness=1.0, data=value)


# --- Checkpoints ---------------------------------------------------------------------------------


def test_an_offered_checkpoint_is_the_state_of_that_step(make_context):
    context = make_context()
    before = context._method.weight.clone()
    context.checkpoint(400)
    context._method.weight += 1
    context.checkpoint(800)
    (first, early), (second, late) = context.offers
    assert (first, second) == (400, 800)
    torch.testing.assert_close(load_file(early), {"weight": before, "transposed": before.T})
    torch.testing.assert_close(load_file(late)["weight"], before + 1)


def test_a_portable_state_shares_no_memory_with_the_method():
    method = Linear()
    state = portable_state(method)
    method.weight.zero_()
    assert state["weight"].sum() == 15
    assert all(value.is_contiguous() for value in state.values())


# --- Features ------------------------------------------------------------------------------------


def test_features_are_opened_once_per_choice_of_facets(make_context, store):
    context = make_context()
    assert context.features(["tokens"]) is context.features(("tokens",))
    assert context.features(["tokens", "cls"]).facets == ["tokens", "cls"]
    assert len(context.features()) == 6


def test_derived_arrays_are_built_again_when_the_code_changes(make_context):
    built = []

    def build(features) -> dict[str, np.ndarray]:
        built.append(features.facets)
        return {"length": np.array(len(features))}

    for code in ("one", "one", "two"):
        assert make_context(code=code).derived("length", build, ["cls"])["length"] == 6
    assert built == [["cls"], ["cls"]]


def test_the_backbone_runs_live(make_context):
    images = torch.rand(2, 3, 8, 8)
    expected = FakeBackbone()(images, ["cls"])["cls"]
    torch.testing.assert_close(make_context().backbone(images, ["cls"])["cls"], expected)
