"""The ViT in the box: small enough for the wheel, trained on generated scenes, nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import is_model, register_model
from timm.models.vision_transformer import VisionTransformer

from uss_bench.backbones.downloads import check_digest
from uss_bench.backbones.timm.positions import Rule
from uss_bench.backbones.timm.vit import TimmViT
from uss_bench.files.digests import digest_file
from uss_bench.plugins.specs import BackboneSpec

WEIGHTS = Path(__file__).with_name("tinyvit.safetensors")


def build(*, image_side: int = 64) -> VisionTransformer:
    """Return the untrained network: patches of 8 pixels, four blocks, four heads, 128 channels."""
    return VisionTransformer(
        img_size=image_side, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=0
    )


def uss_bench_tinyvit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Build the network for timm, which hands in what its own networks need."""
    model = build()
    model.pretrained_cfg = {}  # type: ignore[assignment]
    return model


if not is_model(uss_bench_tinyvit.__name__):  # the registry and a script may both import this file
    register_model(uss_bench_tinyvit)


def tinyvit(
    spec: BackboneSpec, *, positions: Rule | None = None, weights: Path | None = None, name: str | None = None
) -> TimmViT:
    """Return the backbone with its own weights, or with others of the same shape under another `name`.

    Raises:
        DataError: when the weights are missing, damaged or do not fit.
    """
    if weights is None:
        check_digest(spec, WEIGHTS, digest_file(WEIGHTS))
        weights, name = WEIGHTS, name or spec.name
    return TimmViT(spec, model=uss_bench_tinyvit.__name__, positions=positions, weights=weights, name=name)
