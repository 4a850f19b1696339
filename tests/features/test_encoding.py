"""Running a frozen backbone: batches found by trying, memory that does not suffice, autocast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import RunError
from uss_bench.features.encoder import CPU_BATCH, LARGEST_BATCH, Encoder, fastest_batch
from uss_bench.features.store import FeatureStore

CPU = torch.device("cpu")
SQUARES = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), dtype=np.uint8)


class Small(FakeBackbone):
    """A backbone on a device whose memory holds `room` images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __call__(self, images, facets, *, grad=False):
        given = super().__call__(images, facets)
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return given


class Linear:
    """One matrix product, which autocast computes in half precision."""

    patch, name, sha256 = 1, "linear", "linear"

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def to(self, device):
        return self

    def __call__(self, images, facets, *, grad=False):
        self.seen.append(images)
        return {"tokens": (self.weight @ images.flatten(2)).unflatten(2, images.shape[2:])}


@pytest.mark.parametrize("room", [1, 3, 12])
def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same(room):
    backbone = Small(room)
    found = Encoder(backbone, CPU)(SQUARES, ["tokens", "cls"])
    expected = Encoder(FakeBackbone(), CPU)(SQUARES, ["tokens", "cls"])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert max(size for size, _ in backbone.calls[1:]) <= 7


def test_one_image_that_does_not_fit_is_an_error():
    with pytest.raises(RunError, match="ran out of memory"):
        Encoder(Small(0), CPU)(SQUARES, ["tokens"])


class Machine:
    """A clock, and work that takes as long as a function of the batch says."""

    def __init__(self, seconds, room: int = 10**6) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.room = room
        self.tried: list[int] = []

    def run(self, size: int) -> None:
        self.tried.append(size)
        if size > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.now += self.seconds(size)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(lambda size: 1.0), LARGEST_BATCH),  # any batch takes a second: the more the better
        (Machine(lambda size: size / 100), CPU_BATCH),  # the rate never rises
        (Machine(lambda size: max(size, 64) / 100), 64),
        (Machine(lambda size: 1.0, room=40), 32),
        (Machine(lambda size: 1.0, room=4), CPU_BATCH),  # then batches are halved
    ],
    ids=["ever faster", "never faster", "up to 64", "room for 40", "room for 4"],
)
def test_the_batch_is_doubled_while_that_pays_and_memory_holds(machine, expected):
    assert fastest_batch(machine.run, machine.clock) == expected
    assert max(machine.tried) <= 2 * expected


def test_a_cpu_tries_nothing_as_another_batch_might_change_the_last_bit():
    backbone = FakeBackbone()
    assert Encoder(backbone, CPU).batch_size(SQUARES[0], ["tokens"]) == CPU_BATCH
    assert Encoder(backbone, CPU, batch_size=3).batch_size(SQUARES[0], ["tokens"]) == 3
    assert not backbone.calls


def test_autocast_computes_in_half_precision_and_gives_float32():
    backbone = Linear()
    exact, rough = (
        Encoder(backbone, CPU, autocast=on)(SQUARES, ["tokens"])["tokens"] for on in (False, True)
    )
    plain, fast = backbone.seen
    assert plain.is_contiguous()
    assert fast.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, fast, rtol=0, atol=0)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol=5e-3)


def test_features_under_autocast_have_a_key_of_their_own(tmp_path):
    items = TransformedImages(ArrayImages.random(3, 9, 11), side=8, filter="nearest")

    def key(device: str, dtype: str) -> str:
        store = FeatureStore(tmp_path, FakeBackbone(), device=torch.device(device), dtype=dtype)
        return store.key(items)

    assert key("cuda", "float16") != key("cpu", "float16")
    assert key("cuda", "float32") == key("cpu", "float32")
