"""What every backbone has to refuse, said once. Plugins from elsewhere may use it too."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from uss_bench.errors import UsageError


def patch_grid(images: Tensor, patch: int, name: str) -> tuple[int, int]:
    """Return the grid (h, w) of patches that `images` (B, 3, H, W) have for the backbone `name`.

    Raises:
        UsageError: when a side is no multiple of `patch`: trimming would shift every label.
    """
    for side, length in zip(("height", "width"), images.shape[-2:], strict=True):
        if length % patch or not length:
            below = length // patch * patch
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise UsageError(
                f"Image {side} {length} is no multiple of {patch}, the patch of backbone '{name}'.",
                hint=f"Nearest: {nearest}. Choose another protocol, or change its sides.",
            )
    return images.shape[-2] // patch, images.shape[-1] // patch


def refuse_weights(weights: Path | None, name: str) -> None:
    """Raise `UsageError` when weights are given to the backbone `name`, which has none."""
    if weights is not None:
        raise UsageError(
            f"Backbone '{name}' has no weights to load.", hint="Leave --weights out, or choose a --backbone."
        )
