"""The context of a run: clock, generators, curves, checkpoints and what it shares of the store."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone
from safetensors.torch import load_file

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import Diverged
from uss_bench.features.store import FeatureStore
from uss_bench.training import clock as clock_module
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext, portable_state


class Linear:
    """A method with a state, and nothing else."""

    def __init__(self) -> None:
        self.weight = torch.arange(6.0).reshape(2, 3)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight, "transposed": self.weight.T}


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    options = {"device": torch.device("cpu"), "log": lambda message: None}
    return FeatureStore(tmp_path / "features", FakeBackbone(), **options)


@pytest.fixture
def make_context(tmp_path, store):
    def make(seed: int = 0) -> RunContext:
        items = TransformedImages(ArrayImages.random(6, 9, 9), side=8, filter="nearest")
        return RunContext(
            method=Linear(), items=items, store=store, seed=seed, scratch=tmp_path, clock=Clock()
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
    monkeypatch.setattr(clock_module, "time", fake)
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


def test_the_backbone_runs_live(make_context):
    images = torch.rand(2, 3, 8, 8)
    expected = FakeBackbone()(images, ["cls"])["cls"]
    torch.testing.assert_close(make_context().backbone(images, ["cls"])["cls"], expected)


# --- What a context says of the backbone -----------------------------------------------------------


def test_a_context_says_what_the_backbone_is_and_how_large_items_are(make_context):
    context = make_context()
    assert (context.info.blocks, context.info.dim, context.patch) == (1, 9, 4)
    assert (context.side, context.grid) == (8, (2, 2))
    assert context.features()[0]["tokens"].shape == (context.info.dim, *context.grid)


def test_a_generator_may_belong_to_an_epoch_and_an_item(make_context):
    context = make_context()
    assert draw(context.generator("views", 3, 7)) == draw(make_context().generator("views", 3, 7))
    other = [context.generator("views", *key) for key in ((3,), (7, 3), (3, 8), (), (37,))]
    assert len({tuple(draw(one)) for one in [*other, context.generator("views", 3, 7)]}) == 6


def test_images_come_at_the_side_that_is_asked_for(make_context):
    context = make_context()
    assert context.images().batch([3]).shape == (1, 3, 8, 8)
    larger = context.images(side=9, filter="bilinear")
    assert larger.side == 9
    np.testing.assert_array_equal(larger[2].permute(1, 2, 0), context._items.images.image(2))
    assert context.side == 8


# --- Peaks of memory -------------------------------------------------------------------------------


def resident(megabytes: int) -> np.ndarray:
    """Return an array in pages of its own, which go when it goes, whatever the allocator keeps."""
    pages = np.frombuffer(mmap.mmap(-1, megabytes * 2**20), dtype=np.uint8)
    pages[:] = 1
    return pages


@pytest.mark.skipif(clock_module.take_peak() is None, reason="only Linux resets its high-water mark")
def test_a_phase_has_the_peak_of_its_own_time():
    clock = Clock()
    with clock.phase("before"):
        resident(400)
    with clock.phase("outer"):
        resident(150)
        with clock.phase("inner"):
            held = resident(50)
        del held
    with clock.phase("after"):
        pass
    peaks = {name: phase.peak_bytes / 2**20 for name, phase in clock.phases.items()}
    assert peaks["before"] - peaks["outer"] == pytest.approx(250, abs=25)
    assert peaks["outer"] - peaks["inner"] == pytest.approx(100, abs=25)
    assert peaks["inner"] - peaks["after"] == pytest.approx(50, abs=25)


def test_where_a_high_water_mark_cannot_be_reset_there_is_no_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(clock_module, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    clock = Clock()
    with clock.phase("train"):
        pass
    assert clock.phases["train"].peak_bytes is None
    clock.credit("train", 5.0, 7)
    assert clock.so_far("train")[1] == 7
