"""The files that decide what a backbone computes, known without importing it."""

from __future__ import annotations

import os
from pathlib import Path

from uss_bench.files.status import PACKAGE
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import WEIGHTS_SUFFIXES


def backbone_files(registry: Registry, name: str, weights: Path | None) -> list[Path] | None:
    """Return the files and folders that decide a backbone; None where they cannot all be known.

    A backbone from elsewhere may read any file, and a hub may have other weights tomorrow.

    Args:
        name: of a plugin, or of a timm model.
        weights: the user's own file.
    """
    card = registry.find("backbones", name if name in registry.names("backbones") else "timm")
    spec, adapter = registry.backbone(card.name)
    if card.origin != "built-in" or adapter.origin != "built-in":
        return None
    paths = [PACKAGE, card.folder, adapter.folder]
    if weights is not None:
        paths.append(weights.expanduser().absolute())
    elif spec.url.endswith(WEIGHTS_SUFFIXES):
        paths.append(_torch_hub() / "checkpoints" / spec.url.rpartition("/")[2])
    elif adapter.name == "timm":
        return None
    return sorted({*paths})


def _torch_hub() -> Path:
    """Return `torch.hub.get_dir()`, without torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"
