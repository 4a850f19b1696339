"""Facets of any block, attention before and after the softmax, and trainable parts, on real ViTs."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from uss_bench.backbones.facets import facet_shape, parse_facet
from uss_bench.backbones.timm.vit import TimmViT
from uss_bench.contracts import BackboneInfo
from uss_bench.errors import UsageError
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import BackboneSpec

TINY = "vit_tiny_patch16_224"
KINDS = {
    TINY: {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_wee_patch16_reg1_gap_256": {},  # no class token, and queries and keys are normalized
    "vit_small_patch16_dinov3": {},  # rotary positions
}
INFO = BackboneInfo(
    "vit",
    8,
    6,
    blocks=4,
    heads=2,
    prefix=3,
    facets=("tokens", "tokens@i", "attention@i", "cls_attention@i", "cls"),
)


def make(folder: Path, name: str) -> TimmViT:
    """Return a network with random weights of a size that tells tokens apart."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=0).state_dict()
    state = {key: value * 3 if value.ndim == 2 else value.clone() for key, value in state.items()}
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(state, path)
    spec = BackboneSpec(name="timm", title="", summary="", entry="vit:TimmViT")
    return TimmViT(spec, model=name, weights=path, positions="timm")


@pytest.fixture(scope="module", params=KINDS)
def vit(request, tmp_path_factory) -> TimmViT:
    return make(tmp_path_factory.mktemp("weights"), request.param)


@pytest.fixture(scope="module")
def images(vit) -> torch.Tensor:
    shape = (2, 3, 2 * vit.patch, 3 * vit.patch)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def test_logits_become_attention_by_the_softmax_and_the_mean_is_over_heads(vit, images):
    blocks = (1, vit.info.blocks)
    kinds = ("attention", "attention_logits", "attention_mean", "attention_logits_mean")
    out = vit(images, [f"{kind}@{block}" for kind in kinds for block in blocks])
    for block in blocks:
        attention, logits = out[f"attention@{block}"], out[f"attention_logits@{block}"]
        torch.testing.assert_close(logits.softmax(dim=-1), attention, atol=1e-5, rtol=1e-4)
        assert logits.std() > 0.1, "logits that are all alike would prove little"
        torch.testing.assert_close(out[f"attention_mean@{block}"], attention.mean(1))
        torch.testing.assert_close(out[f"attention_logits_mean@{block}"], logits.mean(1))


def test_tokens_of_a_block_are_what_leaves_it(vit, images):
    left = []
    handle = vit._model.blocks[1].register_forward_hook(lambda module, inputs, output: left.append(output))
    out = vit(images, ["tokens@2", "prefix@2", "tokens"])
    handle.remove()
    prefix = vit.info.prefix
    torch.testing.assert_close(out["prefix@2"], left[0][:, :prefix])
    patches = left[0][:, prefix:].transpose(1, 2).reshape(out["tokens@2"].shape)
    torch.testing.assert_close(out["tokens@2"], patches)
    last = vit(images, ["tokens@-1"])["tokens@-1"].flatten(2).transpose(1, 2)
    final = vit._model.norm(last).transpose(1, 2).reshape(out["tokens"].shape)
    torch.testing.assert_close(final, out["tokens"], atol=1e-4, rtol=1e-4)


def test_blocks_count_from_the_end_as_well(vit, images):
    depth = vit.info.blocks
    for kind in ("tokens", "prefix", "queries", "keys", "values", "attention", "attention_logits"):
        out = vit(images, [f"{kind}@-2", f"{kind}@{depth - 1}"])
        assert list(out) == [f"{kind}@-2", f"{kind}@{depth - 1}"]
        assert torch.equal(*out.values())
    assert torch.equal(vit(images, ["attention"])["attention"], vit(images, ["attention@-1"])["attention@-1"])


def test_shapes_are_known_without_running_the_network(vit, images):
    facets = [name.replace("@i", "@-2") for name in vit.info.facets]
    for name, value in vit(images, facets).items():
        shape = facet_shape(parse_facet(name, vit.info), vit.info, *images.shape[2:])
        assert shape == tuple(value.shape[1:]), name


def test_the_last_blocks_of_a_copy_begin_as_the_frozen_ones(vit, images):
    for count in (1, 2):
        part = vit.trainable(count)
        assert part.inputs == (f"tokens@-{count + 1}", f"prefix@-{count + 1}")
        out = vit(images, ["tokens", *part.inputs])
        torch.testing.assert_close(part(out), out["tokens"], atol=1e-4, rtol=1e-4)


def test_a_whole_copy_begins_as_the_frozen_network(vit, images):
    part = vit.trainable(None)
    assert part.inputs == ("image",)
    tokens = part({"image": images})
    torch.testing.assert_close(tokens, vit(images, ["tokens"])["tokens"], atol=1e-4, rtol=1e-4)
    tokens.sum().backward()
    without = [name for name, one in part.named_parameters() if one.grad is None]
    assert all(name.startswith("network.fc_norm") for name in without), "only the classifier is left out"


def test_training_a_part_leaves_the_backbone_alone_and_its_state_can_be_loaded(vit, images):
    part = vit.trainable(1)
    before = vit(images, ["tokens", *part.inputs])
    optimizer = torch.optim.SGD([p for p in part.parameters() if p.requires_grad], lr=0.1)
    part(before)[:, 0].sum().backward()
    assert all(parameter.grad is None for parameter in part.norm.parameters())
    optimizer.step()
    trained = part(before)
    assert not torch.allclose(trained, before["tokens"], atol=1e-3)
    assert torch.equal(vit(images, ["tokens"])["tokens"], before["tokens"])

    fresh = vit.trainable(1)
    fresh.load_state_dict(part.state_dict())
    assert torch.equal(fresh(before), trained)


@pytest.mark.parametrize("count", [0, -1, 12, 13])
def test_more_blocks_than_there_are_cannot_be_trained(tmp_path, count):
    with pytest.raises(UsageError, match="Choose 1 to 11, or None"):
        make(tmp_path, TINY).trainable(count)


@pytest.mark.parametrize("name", ["patchstats", "dense_sift", "random_cnn", "none"])
def test_descriptors_have_nothing_to_train_and_say_what_they_are(name):
    backbone = load_backbone(Registry(), name)
    with pytest.raises(UsageError, match="nothing to train"):
        backbone.trainable()
    assert (backbone.info.name, backbone.info.patch) == (backbone.name, backbone.patch)
    if name != "none":
        tokens = backbone(torch.rand(1, 3, 16, 24), ["tokens"])["tokens"]
        assert tuple(tokens.shape[1:]) == facet_shape(
            parse_facet("tokens", backbone.info), backbone.info, 16, 24
        )


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("tokens", "tokens"),
        ("tokens@-1", "tokens@4"),
        ("tokens@1", "tokens@1"),
        ("attention", "attention@4"),
        ("cls_attention", "cls_attention@4"),
        ("cls", "cls"),
    ],
)
def test_one_facet_has_one_canonical_name(name, canonical):
    assert str(parse_facet(name, INFO)) == canonical
    assert parse_facet(canonical, INFO) == parse_facet(name, INFO)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokens@12", "has 4 blocks.*\n.*tokens@1 to tokens@4.*tokens@-1 to tokens@-4"),
        ("tokens@0", "has 4 blocks"),
        ("tokens@-5", "has 4 blocks"),
        ("tokens@x", "no facet 'tokens@x'.*\n.*Blocks are i = 1 to 4"),
        ("tokens@--1", "no facet"),
        ("tokens@", "no facet"),
        ("keys@1", "no facet 'keys@1'"),
        ("keys", "no facet 'keys'"),
        ("token", "Did you mean 'tokens"),
    ],
)
def test_what_is_not_there_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        parse_facet(name, INFO)


def test_a_network_of_four_blocks_has_no_block_twelve():
    tinyvit = load_backbone(Registry(), "tinyvit")
    assert (tinyvit.info.blocks, tinyvit.info.heads, tinyvit.info.dim, tinyvit.info.prefix) == (4, 4, 128, 1)
    with pytest.raises(UsageError, match="'tinyvit' has 4 blocks"):
        tinyvit(torch.zeros(1, 3, 16, 16), ["keys@12"])
