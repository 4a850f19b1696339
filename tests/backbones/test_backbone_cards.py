"""Named backbones: cards that tell the truth, and weights that are downloaded and checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
from file_server import serve

from uss_bench.backbones.downloads import find_weights
from uss_bench.errors import ContractError, DataError
from uss_bench.files import download as download_module
from uss_bench.files.digests import digest_file
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.params import check_options
from uss_bench.plugins.registry import Registry

# Patch and dimension of the tokens.
LEARNED = {
    **dict.fromkeys(("dino_vits8", "dino_vits8_hub"), (8, 384)),
    "dino_vits16": (16, 384),
    "dino_vitb8": (8, 768),
    "dino_vitb16": (16, 768),
    **dict.fromkeys(("dinov2_vits14", "dinov2_vits14_reg"), (14, 384)),
    **dict.fromkeys(("dinov2_vitb14", "dinov2_vitb14_reg"), (14, 768)),
    "dinov3_vits16": (16, 384),
    "dinov3_vitb16": (16, 768),
    "resnet18": (32, 512),
    **dict.fromkeys(("resnet50", "resnet50_mocov2", "resnet50_slotcon"), (32, 2048)),
    **dict.fromkeys(("resnet50_s8", "resnet50_mocov2_s8"), (8, 2048)),
}
WEIGHT_FREE = {"patchstats": (8, 48), "dense_sift": (8, 128), "random_cnn": (8, 256)}


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


# --- The cards -----------------------------------------------------------------------------------


def test_the_named_backbones_and_what_their_cards_say():
    registry = Registry()
    for name, (patch, dim) in {**LEARNED, **WEIGHT_FREE}.items():
        spec, plugin = registry.backbone(name)
        assert (spec.name, spec.patch, spec.dim) == (name, patch, dim)
        entry = plugin.load()
        check_options(entry, spec.params, name, "params", skip=1)
    for name in LEARNED:
        spec, _ = registry.backbone(name)
        assert spec.source.startswith("https://")
        assert spec.url.startswith("https://")
        assert spec.license
        assert any(data in spec.trained_on for data in ("ImageNet-1k", "LVD-", "COCO train2017"))
        assert (spec.mean, spec.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert len(spec.sha256) in (0, 64)


def test_the_lineages_checkpoint_is_not_that_of_the_hub():
    registry = Registry()
    lineage, hub = (registry.backbone(name)[0] for name in ("dino_vits8", "dino_vits8_hub"))
    assert lineage.url.endswith("/dino_deitsmall8_300ep_pretrain/dino_deitsmall8_300ep_pretrain.pth")
    assert hub.url == timm.get_pretrained_cfg(hub.params["model"]).url
    for name in ("dino_vits16", "dino_vitb8", "dino_vitb16", "dinov2_vits14", "dinov2_vitb14_reg"):
        card = registry.backbone(name)[0]
        assert card.url == timm.get_pretrained_cfg(card.params["model"]).url


def test_every_vits_card_normalizes_as_timm_says_its_weights_were_trained():
    registry = Registry()
    cards = [registry.backbone(plugin.name)[0] for plugin in registry.all("backbones")]
    cards = [card for card in cards if card.adapter == "timm"]
    assert {"dinov3_vits16", "dinov3_vitb16", "dinov3_vitl16_sat"} <= {card.name for card in cards}
    for card in cards:
        config = timm.get_pretrained_cfg(card.params["model"])
        assert (tuple(card.mean), tuple(card.std)) == (config.mean, config.std), card.name
    own = {card.name for card in cards if card.mean != [0.485, 0.456, 0.406]}
    assert own == {"dinov3_vitl16_sat"}, "satellite images have a mean of their own"


def test_a_dinov3_with_registers_and_rotary_positions_sees_pixels_as_its_card_says(tmp_path):
    card = Registry().backbone("dinov3_vitl16_sat")[0]
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_dinov3", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "random.pth")
    small = f'params = {{ model = "vit_small_patch16_dinov3" }}\nmean = {card.mean}\nstd = {card.std}\n'
    write_card(tmp_path, f'adapter = "timm"\n{small}patch = 16\ndim = 384\n')
    vit = load_backbone(Registry([tmp_path]), "card", weights=tmp_path / "random.pth", alias="random")
    assert (vit.info.prefix, vit.info.mean) == (5, pytest.approx(card.mean))
    images = random_images(2, 3, 48, 80)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
    with torch.no_grad():
        wanted = network.forward_features((images - mean) / std)
    found = vit(images, ["tokens", "cls"])
    torch.testing.assert_close(found["cls"], wanted[:, 0], atol=1e-4, rtol=1e-3)
    tokens = wanted[:, 5:].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(found["tokens"], tokens, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ('adapter = "tim"', ContractError, "adapter 'tim' of backbone 'card'.* is no backbone with an entry"),
        ('adapter = "dino_vits8"', ContractError, "is no backbone with an entry"),
        ("", DataError, "spec.toml: a backbone states either `entry` or `adapter`"),
        ('adapter = "timm"\nentry = "vit:TimmViT"', DataError, "either `entry` or `adapter`"),
    ],
)
def test_cards_that_are_refused(tmp_path, lines, error, message):
    write_card(tmp_path, lines)
    with pytest.raises(error, match=message):
        Registry([tmp_path]).backbone("card")


def write_card(folder: Path, lines: str) -> None:
    head = 'kind = "backbone"\nname = "card"\ntitle = ""\nsummary = ""\n'
    (folder / "spec.toml").write_text(head + lines, encoding="utf-8")


# --- Downloads -----------------------------------------------------------------------------------


@pytest.fixture
def tiny_card(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A card of a tiny ViT, in a folder, and the weights that its URL names; torch.hub keeps to tmp_path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    origin = tmp_path / "tiny.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), origin)
    folder = tmp_path / "card"
    folder.mkdir()
    write_card(folder, tiny_lines(origin))
    return folder, origin


def tiny_lines(origin: Path, more: str = "") -> str:
    model = 'params = { model = "vit_tiny_patch16_224" }'
    return f'adapter = "timm"\n{model}\nurl = "{origin.as_uri()}"\npatch = 16\ndim = 192\n{more}'


def test_a_card_of_toml_alone_downloads_once_and_is_held_to_what_it_says(tiny_card):
    folder, origin = tiny_card
    digest = digest_file(origin)
    write_card(folder, tiny_lines(origin, f'sha256 = "{digest}"\n'))
    first = load_backbone(Registry([folder]), "card")
    assert (first.name, first.sha256, first.patch) == ("card", digest, 16)
    origin.unlink()
    images = random_images(1, 3, 32, 32)
    again = load_backbone(Registry([folder]), "card")
    assert torch.equal(again(images, ["tokens"])["tokens"], first(images, ["tokens"])["tokens"])

    write_card(folder, tiny_lines(origin, "mean = [0.1, 0.2, 0.3]\n"))
    other = load_backbone(Registry([folder]), "card")
    assert not torch.equal(other(images, ["tokens"])["tokens"], first(images, ["tokens"])["tokens"])
    assert other.sha256 != digest, "other features, other identity"

    write_card(folder, tiny_lines(origin).replace("dim = 192", "dim = 384"))
    with pytest.raises(ContractError, match="'card' says dim = 384; the network has 192"):
        load_backbone(Registry([folder]), "card")


def test_a_download_of_another_sha256_is_refused(tmp_path, tiny_card):
    folder, origin = tiny_card
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    write_card(folder, tiny_lines(origin, f'sha256 = "{"0" * 64}"\n'))
    with pytest.raises(
        DataError, match=r"weights of 'card' cannot be had.*instead of 0000.*\n.*--weights FILE"
    ):
        load_backbone(Registry([folder]), "card")
    assert not kept.exists()

    shutil.copy(origin, kept)
    for alias in (None, "mine"):  # a name of one's own excuses weights of one's own, not a bad download
        with pytest.raises(DataError, match=r"not 0000.* as 'card' states.*\nFetch them again from file:"):
            load_backbone(Registry([folder]), "card", alias=alias)
    assert load_backbone(Registry([folder]), "card", alias="mine", weights=origin).name == "mine"


def test_weights_come_over_the_network_whole_and_are_no_web_page(tmp_path, tiny_card, monkeypatch):
    folder, origin = tiny_card
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    with serve() as server:
        url = f'url = "{server.url}/tiny.pth"'
        write_card(folder, tiny_lines(origin).replace(f'url = "{origin.as_uri()}"', url))
        with pytest.raises(
            DataError, match=f"answered 404.*\n.*put it at {kept}, or pass it: --weights FILE"
        ):
            load_backbone(Registry([folder]), "card")

        server.files["tiny.pth"] = b"<!DOCTYPE html><html>Log in</html>"
        with pytest.raises(DataError, match=r"answers with a web page instead of tiny\.pth"):
            load_backbone(Registry([folder]), "card")
        assert not kept.exists()

        server.files["tiny.pth"] = origin.read_bytes()
        server.break_after = [1_000_000]
        assert load_backbone(Registry([folder]), "card").sha256 == digest_file(origin)
        assert server.seen[-1] == "bytes=1000000-", "resumed, not begun again"
    load_backbone(Registry([folder]), "card")  # the server is gone: it is not asked again


def test_a_page_is_no_file_to_download():
    spec, _ = Registry().backbone("dinov3_vits16")
    assert find_weights(spec, None) is None
    assert find_weights(spec, Path("mine.pth")) == Path("mine.pth")
