"""Names with a prefix: what the hub's cache holds is read without a network, and everything else refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from uss_bench.backbones.timm import model as model_module
from uss_bench.errors import DataError, UsageError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, which does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def refused(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(model_module.socket, "create_connection", refused)
    return tmp_path / "hub"


def put(cache: Path, repository: str, config: object) -> Path:
    """Put a repository into the cache, as the hub's client does; return its folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    folder = home / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_repository_in_the_cache_is_loaded_with_its_own_normalization(cache, tmp_path):
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    config = {"architecture": NAME, "model_args": {"img_size": 64}, "pretrained_cfg": pixels}
    folder = put(cache, "someone/My-ViT", config)
    torch.manual_seed(0)
    network = timm.create_model(NAME, num_classes=0, img_size=64).eval()
    weights = folder / "model.safetensors"
    save_file(network.state_dict(), weights)
    found = load_backbone(Registry(), "hf:someone/My-ViT")
    assert (found.name, found.patch, found.info.dim) == ("my-vit", 16, 192)
    assert found.info.mean == pytest.approx(pixels["mean"])
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(pixels[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = network.forward_features((images - mean) / std)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(found(images, ["tokens"])["tokens"], wanted, atol=1e-4, rtol=1e-3)

    plain = load_backbone(Registry(), f"timm:{NAME}", weights=weights)
    assert (plain.name, plain.sha256) == (NAME, digest_file(weights))
    assert found.sha256 != plain.sha256, "the same weights of other pixels are other features"
    own = load_backbone(Registry(), "hf:someone/My-ViT", weights=weights, alias="own")
    assert (own.name, own.sha256) == ("own", found.sha256)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        (
            "hf:someone/nothing",
            DataError,
            r"'config.json' of the repository 'someone/nothing' is not in the hub",
        ),
        ("hf:someone/empty", DataError, r"'model.safetensors' of the repository 'someone/empty' is not in"),
        ("hf:facebook/dinov2-small", UsageError, r"model of transformers, of type 'dinov2', and hf: reads"),
        ("hf:vit", UsageError, r"'hf:vit' names no backbone.*\n.*hf:OWNER/NAME"),
        ("hf:../../etc/passwd", UsageError, "names no backbone"),
        ("ftp:someone/vit", UsageError, "names no backbone"),
        ("timm:vit_nonsense", UsageError, "timm has no model 'vit_nonsense'"),
    ],
)
def test_what_is_not_there_or_not_timms_is_refused_clearly(cache, name, error, text):
    put(cache, "someone/empty", {"architecture": NAME})
    put(cache, "facebook/dinov2-small", {"model_type": "dinov2"})
    with pytest.raises(error, match=text):
        load_backbone(Registry(), name)
