"""While it trains, a method can read exactly what its `embed` will receive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import DataError, UsageError
from uss_bench.features.inputs import assemble
from uss_bench.features.store import FeatureStore
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

CPU = torch.device("cpu")


@pytest.fixture
def items() -> TransformedImages:
    arrays = ArrayImages.random(3, 24, 30).arrays
    infrared = [{"infrared": array[..., 0]} for array in arrays]
    return TransformedImages(ArrayImages(arrays, infrared), side=8, filter="nearest", five_crop=True)


@pytest.fixture
def context(items, tmp_path) -> RunContext:
    store = FeatureStore(tmp_path, FakeBackbone(), device=CPU, dtype="float32")
    return RunContext(method=None, items=items, store=store, seed=0, scratch=tmp_path, clock=Clock())


def test_images_and_channels_come_under_the_geometry_of_the_features(context, items):
    inputs = context.features(["image", "aux:infrared", "tokens"])
    assert len(inputs) == 15
    batch = inputs.batch([7, 2])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image": (2, 3, 8, 8),
        "aux:infrared": (2, 1, 8, 8),
        "tokens": (2, 9, 2, 2),
    }
    np.testing.assert_array_equal((batch["image"][0] * 255).round().byte().permute(1, 2, 0), items[7])
    torch.testing.assert_close(batch["aux:infrared"][:, 0], 255 * batch["image"][:, 0])
    tokens = FakeBackbone()(batch["image"], ["tokens"])["tokens"]
    torch.testing.assert_close(batch["tokens"], tokens)
    torch.testing.assert_close(inputs[7]["tokens"], batch["tokens"][0])


def test_they_are_what_embed_receives(context, items):
    names = ["image", "tokens"]
    during_training = context.features(names).batch([4, 9])
    for_embed = assemble(names, items, context.features(["tokens"]), [4, 9], CPU)
    assert during_training.keys() == for_embed.keys()
    for name in names:
        assert torch.equal(during_training[name], for_embed[name])


def test_images_alone_need_no_backbone(context):
    inputs = context.features(["image"])
    assert inputs.source(7) == (1, 2)
    assert context._store.encoded == 0
    with pytest.raises(UsageError, match="Moments are kept of facets"):
        inputs.moments("image")


def test_an_unknown_channel_is_named_with_those_there_are(context):
    with pytest.raises(DataError, match=r"no extra channel 'depth' \(they have: infrared\)"):
        context.features(["aux:depth"]).batch([0])
