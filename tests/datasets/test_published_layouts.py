"""Checkpoints by the names and shapes of the published files, with random values, read a second time.

The networks are written here from the published descriptions, by the names of the files and without
timm; torchvision stands for itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from checkpoint_files import Tensors, genuine, moco_checkpoint, resnet50_state, slotcon_checkpoint
from timm.models import eva, vision_transformer

from uss_bench.backbones.resnet50.resnet50 import ResNet50
from uss_bench.backbones.timm.official import by_timm_names
from uss_bench.backbones.timm.vit import TimmViT
from uss_bench.contracts import Backbone
from uss_bench.errors import DataError, UsageError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import BackboneSpec

# Name, family, width, heads, patch, and side of the grid of positions, where there is one.
VITS = [
    ("dino_vits8", "dino", 384, 6, 8, 28),
    ("dino_vits8_hub", "dino", 384, 6, 8, 28),
    ("dino_vits16", "dino", 384, 6, 16, 14),
    ("dino_vitb8", "dino", 768, 12, 8, 28),
    ("dino_vitb16", "dino", 768, 12, 16, 14),
    ("dinov2_vits14", "dinov2", 384, 6, 14, 37),
    ("dinov2_vits14_reg", "dinov2_reg", 384, 6, 14, 37),
    ("dinov2_vitb14", "dinov2", 768, 12, 14, 37),
    ("dinov2_vitb14_reg", "dinov2_reg", 768, 12, 14, 37),
    ("dinov3_vits16", "dinov3", 384, 6, 16, 0),
    ("dinov3_vitb16", "dinov3", 768, 12, 16, 0),
]
RESNETS = [
    *(("resnet50", 32), ("resnet50_s8", 8), ("resnet50_mocov2", 32), ("resnet50_mocov2_s8", 8)),
    ("resnet50_slotcon", 32),
]

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def assert_all_of_it_moves(backbone: Backbone, images: torch.Tensor) -> None:
    """A tensor left behind on the CPU would not mix with those of the meta device."""
    meta = torch.device("meta")
    assert backbone.to(meta)(images.to(meta), ["tokens"])["tokens"].device == meta


# --- ViTs ----------------------------------------------------------------------------------------


def rotated(x: torch.Tensor, prefix: int, h: int, w: int) -> torch.Tensor:
    """DINOv3's rotation of queries or keys (B, heads, T, 64): angles from centers of patches in [-1, 1]."""
    y, x_ = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in (h, w))
    centers = torch.stack(torch.meshgrid(y, x_, indexing="ij"), dim=-1).reshape(h * w, 2)
    periods = 100.0 ** (torch.arange(16) / 16)
    angles = (2 * math.pi * centers[:, :, None] / periods).flatten(1).repeat(1, 2)
    patches = x[:, :, prefix:]
    turned = torch.cat([-patches[..., 32:], patches[..., :32]], dim=-1)
    return torch.cat([x[:, :, :prefix], patches * angles.cos() + turned * angles.sin()], dim=2)


def read_again(state: Tensors, family: str, heads: int, images: torch.Tensor) -> Tensors:
    """The facets of a checkpoint by its own names, as the authors' code computes them."""
    weight = state["patch_embed.proj.weight"]
    dim, patch = weight.shape[0], weight.shape[-1]
    x = F.conv2d((images - MEAN) / STD, weight, state["patch_embed.proj.bias"], stride=patch)
    h, w = x.shape[-2:]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    if "pos_embed" in state:
        table = state["pos_embed"][:, 1:]
        side = math.isqrt(table.shape[1])
        table = table.reshape(1, side, side, dim).permute(0, 3, 1, 2)
        if family == "dinov2_reg":  # antialiased, to the exact size
            table = F.interpolate(table, size=(h, w), mode="bicubic", antialias=True)
        else:
            table = F.interpolate(table, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode="bicubic")
        table = table.flatten(2).transpose(1, 2)
        x = x + torch.cat([state["pos_embed"][:, :1], table], dim=1)
    registers = state.get("register_tokens", state.get("storage_tokens", torch.zeros(1, 0, dim)))
    x = torch.cat([x[:, :1], registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    prefix, eps = 1 + registers.shape[1], 1e-5 if family == "dinov3" else 1e-6

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (dim,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def affine(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def as_map(x: torch.Tensor) -> torch.Tensor:
        return x[:, prefix:].transpose(1, 2).reshape(len(x), dim, h, w)

    for block in (f"blocks.{i}" for i in range(12)):
        one = torch.ones(dim)
        qkv = affine(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        keys = qkv[..., dim : 2 * dim]
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        if family == "dinov3":
            q, k = rotated(q, prefix, h, w), rotated(k, prefix, h, w)
        attention = (q @ k.mT / math.sqrt(dim // heads)).softmax(dim=-1)
        mixed = affine((attention @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + state.get(f"{block}.ls1.gamma", one) * mixed
        hidden = F.gelu(affine(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state.get(f"{block}.ls2.gamma", one) * affine(hidden, f"{block}.mlp.fc2")
    x = norm(x, "norm")
    return {"tokens": as_map(x), "cls": x[:, 0], "keys@12": as_map(keys), "attention": attention}


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "family", "dim", "heads", "patch", "side"), [row for row in VITS if row[2] == 384]
)
def test_small_vits_load_the_published_layout_and_compute_what_it_means(
    tmp_path, name, family, dim, heads, patch, side
):
    state = genuine(family, dim, patch, side)
    path = tmp_path / "genuine.pth"
    torch.save(state, path)
    # With a name of their own, because the sha256 of the card is not that of random values.
    vit = load_backbone(Registry(), name, weights=path, alias="random")
    assert isinstance(vit, Backbone)
    assert (vit.name, vit.patch, vit.sha256) == ("random", patch, digest_file(path))
    images = random_images(2, 3, 3 * patch, 5 * patch)
    wanted = read_again(state, family, heads, images)
    out = vit(images, list(wanted))
    for facet in wanted:
        torch.testing.assert_close(out[facet], wanted[facet], atol=2e-4, rtol=2e-3)
    prefix = wanted["attention"].shape[-1] - 15
    row = wanted["attention"][:, :, 0, prefix:].reshape(2, heads, 3, 5)
    torch.testing.assert_close(vit(images, ["cls_attention"])["cls_attention"], row, atol=1e-4, rtol=2e-3)

    with torch.enable_grad():
        live = vit(images, ["cls", "attention"], grad=True)
        (gradient,) = torch.autograd.grad(live["cls"].sum(), live["attention"])
    assert gradient[:, :, 0].abs().max() > 0
    assert_all_of_it_moves(vit, images)


@pytest.mark.parametrize(("name", "family", "dim", "heads", "patch", "side"), VITS)
def test_the_published_layout_fits_the_network_key_by_key(name, family, dim, heads, patch, side):
    spec, _ = Registry().backbone(name)
    model = timm.create_model(spec.params["model"], num_classes=0)
    assert model.blocks[0].attn.num_heads == heads
    renamed = by_timm_names(genuine(family, dim, patch, side))
    renamed.pop("mask_token", None)
    shapes = {key: value.shape for key, value in renamed.items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
    assert by_timm_names(renamed).keys() == renamed.keys(), "timm's own names must pass through"


@pytest.mark.parametrize("family", ["dinov2_reg", "dinov3"])
def test_renaming_agrees_with_timms_own(family):
    state = genuine(family, 384, 16 if family == "dinov3" else 14, 0 if family == "dinov3" else 37)
    spec, _ = Registry().backbone("dinov3_vits16" if family == "dinov3" else "dinov2_vits14_reg")
    model = timm.create_model(spec.params["model"], num_classes=0)
    convert = (eva if family == "dinov3" else vision_transformer).checkpoint_filter_fn
    theirs, ours = convert(dict(state), model), by_timm_names(state)
    ours.pop("mask_token")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_dinov3_with_biases_is_refused_not_stripped():
    state = genuine("dinov3", 384, 16, 0)
    state["blocks.3.attn.qkv.bias"][0] = 0.1
    with pytest.raises(DataError, match=r"not zero, 'blocks\.3\.attn\.qkv\.bias'"):
        by_timm_names(state)
    card = BackboneSpec(name="x", title="", summary="", entry="a:b")
    with pytest.raises(UsageError, match="not a plain vision transformer"):
        TimmViT(card, model="vit_small_patch16_dinov3_qkvb")


# --- ResNets -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet_state() -> Tensors:
    return resnet50_state()


@pytest.fixture(scope="module")
def resnet_files(tmp_path_factory, resnet_state) -> dict[str, Path]:
    """Files as torchvision and the training scripts of MoCo and SlotCon leave them."""
    folder = tmp_path_factory.mktemp("resnet")
    files = {"torchvision": folder / "resnet50.pth", "moco": folder / "moco_v2.pth.tar"}
    # torchvision's file is older than the counters of updates.
    tracked = {key: value for key, value in resnet_state.items() if not key.endswith("num_batches_tracked")}
    torch.save(tracked, files["torchvision"])
    torch.save(moco_checkpoint(resnet_state), files["moco"])
    files["slotcon"] = folder / "slotcon_coco_r50_800ep_full_checkpoint.pth"
    torch.save(slotcon_checkpoint(resnet_state), files["slotcon"])
    return files


@torch.no_grad()
@pytest.mark.parametrize(("name", "stride"), RESNETS)
def test_resnets_are_torchvisions_conv5(resnet_state, resnet_files, name, stride):
    path = resnet_files[next((file for file in ("moco", "slotcon") if file in name), "torchvision")]
    backbone = load_backbone(Registry(), name, weights=path, alias="random")
    assert isinstance(backbone, Backbone)
    assert backbone.patch == stride

    model = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, stride == 8, stride == 8]
    ).eval()
    model.load_state_dict(resnet_state)
    images = random_images(1, 3, 64, 96)
    wanted = torch.nn.Sequential(*list(model.children())[:-2])((images - MEAN) / STD)
    tokens = backbone(images, ["tokens"])["tokens"]
    assert tokens.shape == (1, 2048, 64 // stride, 96 // stride)
    torch.testing.assert_close(tokens, wanted, atol=1e-4, rtol=1e-3)
    assert backbone(images, []) == {}
    assert_all_of_it_moves(backbone, images)


def test_of_two_encoders_in_a_file_a_card_says_which(resnet_state, resnet_files):
    """SlotCon's is the teacher, where that of MoCo is the one under training; both files hold both."""
    card = Registry().backbone("resnet50_slotcon")[0]
    assert card.params == {"encoder": "encoder_k"}
    images = random_images(1, 3, 64, 64)
    spec = BackboneSpec(name="mine", title="", summary="", entry="resnet50:ResNet50")
    for file, alive, other in (("slotcon", "encoder_k", "encoder_q"), ("moco", "encoder_q", "encoder_k")):
        found = {name: ResNet50(spec, weights=resnet_files[file], encoder=name) for name in (alive, other)}
        assert found[alive](images, ["tokens"])["tokens"].any()
        assert not found[other](images, ["tokens"])["tokens"].any(), "the other one is zero"
        assert found[alive].sha256 != found[other].sha256, "other features, other identity"


def test_slotcons_backbone_alone_is_read_too_and_nothing_is_fetched(resnet_state, tmp_path):
    """As its conversion scripts save it: the teacher by torchvision's names."""
    teacher = {key: value for key, value in resnet_state.items() if not key.startswith("fc.")}
    torch.save({"state_dict": teacher}, tmp_path / "backbone.pth")
    backbone = load_backbone(Registry(), "resnet50_slotcon", weights=tmp_path / "backbone.pth")
    key = "layer4.2.bn3.running_mean"
    assert torch.equal(backbone._model.state_dict()[key], resnet_state[key])
    with pytest.raises(DataError, match=r"needs a weights file\.\n.*--weights FILE, of https://"):
        load_backbone(Registry(), "resnet50_slotcon")


def test_resnet_identity_and_refusals(resnet_files):
    path = resnet_files["torchvision"]
    spec = BackboneSpec(name="mine", title="", summary="", entry="resnet50:ResNet50")
    backbone = ResNet50(spec, weights=path)
    assert (backbone.name, backbone.sha256) == ("mine", digest_file(path))
    assert ResNet50(spec, weights=path, stride=8).sha256 != backbone.sha256, "other features, other identity"
    with pytest.raises(UsageError, match="no facet 'keys@3'"):
        backbone(torch.zeros(1, 3, 64, 64), ["keys@3"])
    with pytest.raises(UsageError, match="height 40 is not a multiple of 32"):
        backbone(torch.zeros(1, 3, 40, 64), ["tokens"])
    with pytest.raises(DataError, match="needs a weights file"):
        ResNet50(spec)
    with pytest.raises(DataError, match=r"not 0676ba61.* as 'resnet50' states.*\n.*--backbone-name"):
        load_backbone(Registry(), "resnet50", weights=path)
