"""Backbones: facets against independent readings, the position rules, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants

from uss_bench.backbones.none.none import NoFeatures
from uss_bench.backbones.patchstats.patchstats import PatchStats
from uss_bench.backbones.timm.positions import interpolate_positions
from uss_bench.backbones.timm.vit import TimmViT
from uss_bench.backbones.weights import digest_state
from uss_bench.contracts import Backbone
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import BackboneSpec

ROOT = Path(__file__).parents[2]
TINY = "vit_tiny_patch16_224"
REGISTERS = "vit_small_patch14_reg4_dinov2"
NO_CLS = "vit_wee_patch16_reg1_gap_256"
DINOV2 = "vit_small_patch14_dinov2"
REAL_WEIGHTS = ROOT.parent / "shared/data/weights/vit_small_patch14_dinov2.imgfocus.safetensors"
HALF = 0.5  # mean and deviation that timm's default weights of TINY were trained with


def spec(name: str = "timm", **fields) -> BackboneSpec:
    return BackboneSpec(name=name, title="", summary="", entry="vit:TimmViT", **fields)


def random_state(name: str) -> dict[str, torch.Tensor]:
    """Weights of a model whose position embedding, unlike timm's initial one, is not negligible."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=0).state_dict()
    generator = torch.Generator().manual_seed(1)
    state["pos_embed"] = 0.5 * torch.randn(state["pos_embed"].shape, generator=generator)
    return {key: value.clone() for key, value in state.items()}


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    return random_state(TINY)


@pytest.fixture(scope="session")
def weights(tmp_path_factory, tiny_state) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.torch.save_file(tiny_state, path)
    return path


@pytest.fixture(scope="session")
def vit(weights) -> TimmViT:
    return TimmViT(spec(), model=TINY, weights=weights)


@pytest.fixture(scope="session")
def reference(tiny_state) -> torch.nn.Module:
    """timm's own model of the same weights, whose forward passes know nothing of ours."""
    model = timm.create_model(TINY, num_classes=0).eval()
    model.load_state_dict(tiny_state)
    return model


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def as_map(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    return tokens.reshape(len(tokens), h, w, -1).permute(0, 3, 1, 2)


# --- Facets --------------------------------------------------------------------------------------


@torch.no_grad()
def test_facets_at_the_native_size_are_those_of_timm(vit, reference):
    images = random_images(2, 3, 224, 224)
    out = vit(images, ["tokens", "cls", "queries@3", "keys@3", "values@12", "attention", "cls_attention"])

    seen = {}
    for block in (2, 11):
        reference.blocks[block].norm1.register_forward_hook(
            lambda module, inputs, output, block=block: seen.__setitem__(block, output)
        )
    final = reference.forward_features((images - HALF) / HALF)
    torch.testing.assert_close(out["tokens"], as_map(final[:, 1:], 14, 14), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["cls"], final[:, 0], atol=1e-4, rtol=1e-4)

    def project(block: int, part: int) -> torch.Tensor:
        layer = reference.blocks[block].attn.qkv
        rows = slice(192 * part, 192 * (part + 1))
        return F.linear(seen[block], layer.weight[rows], layer.bias[rows])

    torch.testing.assert_close(out["queries@3"], as_map(project(2, 0)[:, 1:], 14, 14), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["keys@3"], as_map(project(2, 1)[:, 1:], 14, 14), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["values@12"], as_map(project(11, 2)[:, 1:], 14, 14), atol=1e-4, rtol=1e-4)

    q, k = (project(11, part).reshape(2, 197, 3, 64).transpose(1, 2) for part in (0, 1))
    attention = (q @ k.transpose(2, 3) / math.sqrt(64)).softmax(dim=-1)
    torch.testing.assert_close(out["attention"], attention, atol=1e-5, rtol=1e-4)
    cls_attention = attention[:, :, 0, 1:].reshape(2, 3, 14, 14)
    torch.testing.assert_close(out["cls_attention"], cls_attention, atol=1e-5, rtol=1e-4)


def test_attention_is_a_distribution_and_asking_for_it_changes_nothing(vit):
    images = random_images(2, 3, 64, 48)
    out = vit(images, ["attention", "cls"])
    assert out["attention"].shape == (2, 3, 13, 13)
    torch.testing.assert_close(out["attention"].sum(dim=-1), torch.ones(2, 3, 13))
    torch.testing.assert_close(out["cls"], vit(images, ["cls"])["cls"], atol=1e-5, rtol=1e-5)
    assert vit._model.blocks[-1].attn.fused_attn, "the fused kernel must be back in use"


def test_only_the_blocks_that_are_needed_run(vit):
    ran = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output, number=number: ran.append(number))
        for number, block in enumerate(vit._model.blocks, start=1)
    ]
    out = vit(random_images(1, 3, 32, 32), ["keys@2", "values@3"])
    for handle in handles:
        handle.remove()
    assert ran == [1, 2, 3]
    assert list(out) == ["keys@2", "values@3"]
    assert vit(random_images(1, 3, 32, 32), []) == {}


def test_rectangles_keep_rows_and_columns_apart(vit):
    images = random_images(1, 3, 32, 64)
    assert vit(images, ["tokens"])["tokens"].shape == (1, 192, 2, 4)
    assert vit(images, ["cls_attention"])["cls_attention"].shape == (1, 3, 2, 4)


def test_features_can_be_trained_upon_but_carry_no_graph(vit):
    tokens = vit(random_images(1, 3, 32, 32).requires_grad_(), ["tokens"])["tokens"]
    assert not tokens.requires_grad
    head = torch.nn.Conv2d(192, 2, 1)
    head(tokens).sum().backward()
    assert head.weight.grad is not None


@pytest.mark.parametrize("images_need_grad", [False, True])
def test_gradient_of_cls_with_respect_to_attention(vit, images_need_grad):
    images = random_images(1, 3, 32, 48).requires_grad_(images_need_grad)
    direction = torch.randn(192, generator=torch.Generator().manual_seed(3))
    out = vit(images, ["cls", "attention"], grad=True)
    wanted = [out["attention"], images] if images_need_grad else [out["attention"]]
    gradient, *of_images = torch.autograd.grad((out["cls"] @ direction).sum(), wanted)
    assert gradient.shape == (1, 3, 7, 7)
    assert all(g.abs().max() > 0 for g in of_images)
    assert all(not parameter.requires_grad for parameter in vit._model.parameters())

    # Only the class token's own row reaches cls; its gradient is checked by finite differences.
    assert gradient[:, :, 1:].abs().max() == 0
    step, entry = 1e-2, (0, 1, 0, 4)

    def cls_with(change: float) -> torch.Tensor:
        def perturb(module, inputs, output):
            output = output.clone()
            output[entry] += change
            return output

        handle = vit._model.blocks[-1].attn.attn_drop.register_forward_hook(perturb)
        cls = vit(images.detach(), ["cls", "attention"])["cls"]
        handle.remove()
        return (cls @ direction).sum()

    measured = (cls_with(step) - cls_with(-step)) / (2 * step)
    torch.testing.assert_close(gradient[entry], measured, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize(
    ("facet", "message"),
    [
        ("token", "Did you mean 'tokens'"),
        ("key@3", "Did you mean 'keys@i'"),
        ("keys", "Did you mean 'keys@i'"),
        ("keys@0", "keys@1 to keys@12"),
        ("values@13", "has 12 blocks"),
        ("tokens@13", "has 12 blocks"),
    ],
)
def test_unknown_facets_are_refused(vit, facet, message):
    with pytest.raises(UsageError, match=message):
        vit(random_images(1, 3, 32, 32), [facet])


# --- Sizes and positions -------------------------------------------------------------------------


def dino_positions(table: torch.Tensor, native: int, h: int, w: int) -> torch.Tensor:
    """DINO's rule by hand: cubic convolution (a = -0.75) at (i + 0.5) M / (h + 0.1) - 0.5."""

    def matrix(size: int) -> torch.Tensor:
        rows = torch.zeros(size, native, dtype=torch.float64)
        for i in range(size):
            center = (i + 0.5) * native / (size + 0.1) - 0.5
            for tap in range(math.floor(center) - 1, math.floor(center) + 3):
                x, a = abs(center - tap), -0.75
                inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
                weight = inner if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)
                rows[i, min(max(tap, 0), native - 1)] += weight
        return rows

    grid = table.double().reshape(native, native, -1)
    return torch.einsum("hi,wj,ijd->hwd", matrix(h), matrix(w), grid).reshape(1, h * w, -1).float()


@pytest.mark.parametrize("grid", [(40, 40), (23, 31), (2, 3), (28, 27)])
def test_dino_rule_is_cubic_convolution_at_the_shifted_scale(grid):
    table = random_images(1, 28 * 28, 5)
    ours = interpolate_positions(table, (28, 28), grid, "dino")
    torch.testing.assert_close(ours, dino_positions(table, 28, *grid), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, interpolate_positions(table, (28, 28), grid, "timm"), atol=1e-3)


@pytest.mark.parametrize("rule", ["dino", "timm"])
def test_the_native_grid_is_left_alone(rule):
    table = random_images(1, 28 * 28, 5)
    assert interpolate_positions(table, (28, 28), (28, 28), rule) is table
    # As many patches as natively, in another shape, are another grid.
    assert not torch.equal(interpolate_positions(table, (28, 28), (14, 56), rule), table)


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vitb14", "dinov2_vits14_reg", "dinov2_vitb14_reg"])
def test_a_card_states_the_rule_of_the_networks_own_code(name):
    """DINOv2's hub builds networks with registers with antialiasing and an offset of 0, others without."""
    card, _ = Registry().backbone(name)
    assert card.positions == ("timm" if name.endswith("_reg") else "dino")


@torch.no_grad()
@pytest.mark.parametrize(
    ("fields", "model", "chosen", "rule"),
    [
        ({}, TINY, None, "dino"),
        ({}, DINOV2, None, "dino"),
        ({}, REGISTERS, None, "timm"),
        ({}, REGISTERS, "dino", "dino"),
        ({"positions": "timm"}, TINY, None, "timm"),
        ({"positions": "timm"}, TINY, "dino", "dino"),
        ({"positions": "dino"}, REGISTERS, None, "dino"),
    ],
)
def test_the_rule_is_what_is_asked_for_or_the_cards_or_the_networks(tmp_path, fields, model, chosen, rule):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(random_state(model), path)
    vit = TimmViT(spec(**fields), model=model, positions=chosen, weights=path)
    assert vit.positions == rule
    images = random_images(1, 3, 3 * vit.patch, 3 * vit.patch)
    found = {
        one: TimmViT(spec(), model=model, positions=one, weights=path)(images, ["tokens"])["tokens"]
        for one in ("dino", "timm")
    }
    assert torch.equal(vit(images, ["tokens"])["tokens"], found[rule])
    assert not torch.allclose(found["dino"], found["timm"], atol=1e-3)


def test_a_network_without_a_table_has_no_rule():
    assert not hasattr(load_backbone(Registry(), "patchstats"), "positions")
    with pytest.raises(UsageError, match="--positions"):
        load_backbone(Registry(), "patchstats", positions="timm")


@torch.no_grad()
@pytest.mark.parametrize("name", [TINY, REGISTERS, NO_CLS])
def test_timm_rule_is_timms_own_forward(name, tmp_path):
    state = random_state(name)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    vit = TimmViT(spec(), model=name, positions="timm", weights=path)
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(state)
    h, w = 3, 5
    images = random_images(1, 3, h * vit.patch, w * vit.patch)
    final = model.forward_features((images - vit._mean) / vit._std)[:, model.num_prefix_tokens :]
    tokens = vit(images, ["tokens"])["tokens"]
    torch.testing.assert_close(tokens, as_map(final, h, w), atol=1e-4, rtol=1e-4)
    assert torch.equal(tokens, vit(images, ["tokens"])["tokens"]), "the kept grid must give the same"

    if name == NO_CLS:
        for facet in ("cls", "cls_attention"):
            with pytest.raises(UsageError, match="no class token"):
                vit(images, [facet])
    else:
        assert vit(images, ["cls_attention"])["cls_attention"].shape[2:] == (h, w)
    attention = vit(images, ["attention"])["attention"]
    assert attention.shape[2] == h * w + model.num_prefix_tokens


@torch.no_grad()
def test_the_position_rule_reaches_the_features(weights, tiny_state):
    """The dino features are those of a model whose own table was replaced by the interpolated one."""
    vit = TimmViT(spec(), model=TINY, weights=weights)
    images = random_images(1, 3, 320, 256)
    table = tiny_state["pos_embed"]
    positions = torch.cat([table[:, :1], dino_positions(table[:, 1:], 14, 20, 16)], dim=1)
    model = timm.create_model(TINY, num_classes=0, img_size=(320, 256)).eval()
    model.load_state_dict(tiny_state | {"pos_embed": positions})
    final = model.forward_features((images - HALF) / HALF)
    torch.testing.assert_close(
        vit(images, ["tokens"])["tokens"], as_map(final[:, 1:], 20, 16), atol=1e-3, rtol=1e-3
    )


def test_sides_that_the_patch_does_not_divide_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(random_state(DINOV2), path)
    vit = TimmViT(spec(), model=DINOV2, weights=path)
    for shape, side in (((1, 3, 320, 322), "height"), ((1, 3, 322, 320), "width")):
        with pytest.raises(
            UsageError, match=f"Image {side} 320 is not a multiple of 14.*\nNearest: 308 or 322"
        ):
            vit(torch.zeros(shape), ["keys@1"])
    with pytest.raises(UsageError, match="Nearest: 14"):
        vit(torch.zeros(1, 3, 8, 14), ["tokens"])
    assert vit(torch.zeros(1, 3, 322, 322), ["keys@1"])["keys@1"].shape == (1, 384, 23, 23)


# --- Weights and names ---------------------------------------------------------------------------


def test_weights_give_digest_name_and_frozen_parameters(vit, weights):
    assert vit.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert vit.name == TINY
    assert vit.patch == 16
    assert isinstance(vit, Backbone)
    assert not vit._model.training
    assert vit.to(torch.device("cpu")) is vit


def test_name_can_be_overridden_and_must_be_a_name(weights):
    assert TimmViT(spec(), model=TINY, weights=weights, name="tiny-mine").name == "tiny-mine"
    with pytest.raises(UsageError, match="cannot be a backbone's name"):
        TimmViT(spec(), model=TINY, weights=weights, name="../tiny")


@pytest.mark.parametrize("layout", ["plain", "half", "state_dict", "model", "teacher", "dino"])
def test_checkpoint_layouts(tmp_path, tiny_state, vit, layout):
    head = {"head.mlp.0.weight": torch.zeros(2, 2)}
    content = {
        "plain": tiny_state | {"head.weight": torch.zeros(10, 192), "mask_token": torch.zeros(1, 192)},
        "half": {key: value.half() for key, value in tiny_state.items()},
        "state_dict": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tiny_state.items()}},
        "model": {"model": tiny_state, "optimizer": {"lr": 0.1}},
        "teacher": {"student": {}, "teacher": {f"backbone.{k}": v for k, v in tiny_state.items()} | head},
        "dino": {"teacher": {f"module.backbone.{k}": v for k, v in tiny_state.items()} | head},
    }[layout]
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    loaded = TimmViT(spec(), model=TINY, weights=path)
    images = random_images(1, 3, 32, 32)
    tokens = loaded(images, ["tokens"])["tokens"]
    assert tokens.dtype == torch.float32
    tolerance = 0.05 if layout == "half" else 0
    torch.testing.assert_close(tokens, vit(images, ["tokens"])["tokens"], atol=tolerance, rtol=0)


def test_a_misfit_names_missing_unexpected_and_reshaped_keys(tmp_path, tiny_state):
    state = dict(tiny_state)
    for key in ("cls_token", "norm.bias", "blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.bias"):
        del state[key]
    state["extra"] = torch.zeros(1)
    state["pos_embed"] = torch.zeros(1, 6, 192)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(DataError) as caught:
        TimmViT(spec(), model=TINY, weights=path)
    for part in (
        "4 missing (blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias, cls_token, …)",
        "1 unexpected (extra)",
        "1 of another shape (pos_embed is [1, 6, 192] instead of [1, 197, 192])",
    ):
        assert part in caught.value.what


def test_a_spec_that_states_a_sha256_is_held_to_it(weights, vit):
    TimmViT(spec(sha256=vit.sha256), model=TINY, weights=weights)
    with pytest.raises(DataError, match="not 0000 as 'timm' states"):
        TimmViT(spec(sha256="0000"), model=TINY, weights=weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch14_dinov2", "timm has no model.*\nDid you mean 'vit_small_patch14_dinov2"),
        (f"{TINY}.bogus", "timm cannot build"),
        ("resnet10t", "not a plain vision transformer"),
        ("deit_tiny_distilled_patch16_224", "not a plain vision transformer"),
        ("vit_pwee_patch16_reg1_gap_256", "not a plain vision transformer"),
    ],
)
def test_models_that_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        TimmViT(spec(), model=name)


def test_a_failed_download_says_what_to_do(monkeypatch, reference):
    create = timm.create_model

    def connect(address, timeout):
        assert (address, timeout) == (("huggingface.co", 443), 5)
        return contextlib.closing(io.BytesIO()).thing

    def refuse(address, timeout):
        raise OSError("Name or service not known")

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host\nand much more")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    for answers, reason in ((True, "no route to host"), (False, "huggingface.co does not answer")):
        monkeypatch.setattr("socket.create_connection", connect if answers else refuse)
        with pytest.raises(DataError, match=rf"cannot be fetched: {reason}\.\n.*--weights FILE"):
            TimmViT(spec(), model=TINY)

    asked = []
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **options: asked.append(constants.HF_HUB_OFFLINE) or reference,
    )
    assert TimmViT(spec(), model=TINY).sha256 == digest_state(reference.state_dict())
    assert asked == [False, True], "what the hub's cache holds is used at once where the hub does not answer"
    assert not constants.HF_HUB_OFFLINE


def test_state_digest_sees_every_difference_and_no_order():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    digest = digest_state(state)
    assert digest == digest_state(dict(reversed(state.items())))
    others = [{"c": state["a"]}, {"a": torch.zeros(3, 2)}, {"a": state["a"].half()}, {"a": state["a"] + 1}]
    assert digest not in {digest_state({"b": state["b"], **other}) for other in others}


@pytest.mark.shared
@torch.no_grad()
def test_real_weights_give_timms_features_at_the_native_size():
    if not REAL_WEIGHTS.is_file():
        pytest.skip(f"{REAL_WEIGHTS} is absent")
    vit = TimmViT(spec(), model=DINOV2, weights=REAL_WEIGHTS, name="dinov2s14-imgfocus")
    model = timm.create_model(DINOV2, num_classes=0).eval()
    model.load_state_dict(safetensors.torch.load_file(REAL_WEIGHTS))
    images = random_images(1, 3, 518, 518)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    final = model.forward_features((images - mean) / std)
    tokens = vit(images, ["tokens"])["tokens"]
    torch.testing.assert_close(tokens, as_map(final[:, 1:], 37, 37), atol=1e-3, rtol=1e-3)
    assert vit(random_images(1, 3, 322, 322), ["tokens"])["tokens"].shape == (1, 384, 23, 23)


# --- patchstats and none -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def patchstats() -> PatchStats:
    return PatchStats(spec("patchstats"))


def test_patchstats_shape_and_determinism(patchstats):
    assert isinstance(patchstats, Backbone)
    for height, width in ((8, 8), (320, 320), (40, 104)):
        images = random_images(2, 3, height, width)
        tokens = patchstats(images, ["tokens"])["tokens"]
        assert tokens.shape == (2, 48, height // 8, width // 8)
        assert tokens.dtype == torch.float32
        assert torch.equal(tokens, patchstats(images, ["tokens"])["tokens"])
        torch.testing.assert_close(tokens[1:], patchstats(images[1:], ["tokens"])["tokens"])
    assert patchstats(images, []) == {}
    assert PatchStats(spec("patchstats")).sha256 == patchstats.sha256


def test_patchstats_of_a_mirrored_image_are_mirrored_with_orientations_exchanged(patchstats):
    images = random_images(1, 3, 64, 96)
    tokens = patchstats(images, ["tokens"])["tokens"]
    mirrored = patchstats(images.flip(-1), ["tokens"])["tokens"].flip(-1)
    mirror = [(8 - k) % 8 for k in range(8)]
    order = [*range(24), *(24 + 8 * group + k for group in range(3) for k in mirror)]
    torch.testing.assert_close(mirrored, tokens[:, order], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mirrored, tokens, atol=1e-2)


def test_patchstats_channels_mean_what_they_say(patchstats):
    flat = torch.full((1, 3, 64, 64), 0.5)
    stripes = 0.5 + 0.4 * torch.sin(torch.arange(64) * 2 * math.pi / 8).expand(1, 3, 64, 64)
    raw_flat, raw_across, raw_down = (
        patchstats._describe(images)[0, :, 4, 4] for images in (flat, stripes, stripes.transpose(2, 3))
    )
    torch.testing.assert_close(raw_flat[:9], torch.tensor([0.5 * 3**0.5, 0, 0]).repeat(3))
    torch.testing.assert_close(raw_flat[24:], torch.full((24,), 1 / 8))
    assert (raw_across[9:24:3] > raw_flat[9:24:3]).all()
    for group in range(3):
        start = 24 + 8 * group
        assert raw_across[start : start + 8].argmax() == 0  # the gradient runs along the rows
        assert raw_down[start : start + 8].argmax() == 4
        assert raw_across[start : start + 8].sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(raw_across[:24], raw_down[:24], atol=1e-4, rtol=1e-4)


def test_patchstats_gradient_is_finite_even_where_the_image_is_flat(patchstats):
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    patchstats(images, ["tokens"], grad=True)["tokens"].sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert not patchstats(images, ["tokens"])["tokens"].requires_grad


def test_patchstats_refusals(patchstats):
    with pytest.raises(UsageError, match="no facet 'cls'"):
        patchstats(torch.zeros(1, 3, 8, 8), ["cls"])
    with pytest.raises(UsageError, match="width 12 is not a multiple of 8"):
        patchstats(torch.zeros(1, 3, 8, 12), ["tokens"])
    with pytest.raises(UsageError, match="no weights to load"):
        PatchStats(spec("patchstats"), weights=Path("w.pth"))


def test_none_has_no_features():
    backbone = NoFeatures(spec("none"))
    assert isinstance(backbone, Backbone)
    assert backbone.patch == 1
    assert backbone(torch.zeros(1, 3, 5, 7), []) == {}
    with pytest.raises(UsageError, match=r"needs features \(tokens\).*\nChoose a --backbone"):
        backbone(torch.zeros(1, 3, 5, 7), ["tokens"])
    with pytest.raises(UsageError, match="no weights to load"):
        NoFeatures(spec("none"), weights=Path("w.pth"))


@pytest.mark.parametrize("name", ["timm", "patchstats", "none"])
def test_specs_are_valid_and_their_entries_load(name):
    found, plugin = Registry().backbone(name)
    assert found.name == name
    assert callable(plugin.load())
