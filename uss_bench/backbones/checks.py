"""What every backbone refuses. Plugins from elsewhere may use it too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from uss_bench.errors import ContractError, UsageError, did_you_mean
from uss_bench.plugins.specs import BackboneSpec, is_name


def patch_grid(images: Tensor, patch: int, name: str) -> tuple[int, int]:
    """Return the grid (h, w) of patches that `images` (B, 3, H, W) have for the backbone `name`.

    Raises:
        UsageError: when a side is not a multiple of `patch`: trimming would shift every label.
    """
    for side, length in zip(("height", "width"), images.shape[-2:], strict=True):
        if length % patch or not length:
            below = length // patch * patch
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise UsageError(
                f"Image {side} {length} is not a multiple of {patch}, the patch of backbone '{name}'.",
                hint=f"Nearest: {nearest}. Choose another protocol, or change its sides.",
            )
    return images.shape[-2] // patch, images.shape[-1] // patch


def only_tokens(facets: Sequence[str], name: str) -> None:
    """Raise `UsageError` when another of `facets` than ``tokens`` is asked of the backbone `name`."""
    for facet in facets:
        if facet != "tokens":
            raise UsageError(
                f"Backbone '{name}' has no facet '{facet}'.", hint=did_you_mean(facet, ["tokens"])
            )


def refuse_weights(weights: Path | None, name: str) -> None:
    """Raise `UsageError` when weights are given to the backbone `name`, which has none."""
    if weights is not None:
        raise UsageError(
            f"Backbone '{name}' has no weights to load.", hint="Leave --weights out, or choose a --backbone."
        )


def checked_name(name: str) -> str:
    """Return `name`, or raise `UsageError` when it may not be a backbone's."""
    if not is_name(name):
        raise UsageError(
            f"'{name}' cannot be a backbone's name.",
            hint="Use a-z, 0-9, '.', '_' and '-', at most 64 of them.",
        )
    return name


def check_card(spec: BackboneSpec, *, patch: int, dim: int) -> None:
    """Raise `ContractError` when the patch or the dimension that `spec` states is not the network's."""
    for key, stated, actual in (("patch", spec.patch, patch), ("dim", spec.dim, dim)):
        if stated not in (0, actual):
            raise ContractError(
                f"The spec.toml of backbone '{spec.name}' says {key} = {stated}; the network has {actual}."
            )
