"""Any torch module as a backbone: one function from images to features."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uss_bench.backbones.checks import checked_name, only_tokens, patch_grid
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.backbones.weights import digest_state, parameter_count
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.errors import ContractError

_PROBE = 16
"""Patches along a side of the image that tells the number of channels: 224 pixels for a patch of 14."""


class ModuleBackbone:
    """A `Backbone` whose only facet is ``tokens``, computed by a function of the user.

    Its digest is that of the weights of all modules that the function uses and of its source, so that a run
    with other weights is another run.

    Args:
        features: from images, float32 (B, 3, H, W), to features (B, D, H / patch, W / patch) or
            (B, H·W / patch², D).
        patch: side of one feature's patch in pixels.
        name: what records call it.
        mean: what is subtracted from images in [0, 1] before `features` sees them.
        std: what they are divided by then.
        modules: further modules that `features` uses, where they are not seen: itself, and what it names.

    Raises:
        UsageError: for a name that is none.
        ContractError: when `features` returns anything else.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        *,
        patch: int,
        name: str,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        modules: Iterable[nn.Module] = (),
    ) -> None:
        self.name = checked_name(name)
        self.patch = patch
        self._features = features
        self._modules = [*modules, *_modules_of(features)]
        for module in self._modules:
            module.eval().requires_grad_(False)
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        digest = hashlib.sha256(repr((patch, mean, std, _source(features))).encode())
        for module in self._modules:
            digest.update(digest_state(module.state_dict()).encode())
        self.sha256 = digest.hexdigest()
        self.info = BackboneInfo(name=name, patch=patch, dim=0, mean=mean, std=std)
        side = _PROBE * patch
        with torch.random.fork_rng():
            dim = self(torch.zeros(1, 3, side, side), ["tokens"])["tokens"].shape[1]
        # A network that was not found, inside another function, cannot be counted either.
        parameters = parameter_count(*self._modules) if self._modules else None
        self.info = BackboneInfo(name=name, patch=patch, dim=dim, parameters=parameters, mean=mean, std=std)

    def to(self, device: torch.device) -> ModuleBackbone:
        """Move to `device`, in place, and return self."""
        for module in self._modules:
            module.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, D, h, w) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is not a multiple of the patch.
            ContractError: when the function returns features of another shape.
        """
        only_tokens(facets, self.name)
        height, width = patch_grid(images, self.patch, self.name)
        with torch.set_grad_enabled(grad):
            found = self._features((images - self._mean) / self._std)
        if isinstance(found, Tensor) and found.ndim == 3 and found.shape[1] == height * width:
            found = found.transpose(1, 2).unflatten(2, (height, width))
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[2:] != (height, width):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ContractError(
                f"Backbone '{self.name}' returned {shape} for images {tuple(images.shape)}; with a patch of "
                f"{self.patch} features are (B, D, {height}, {width}) or (B, {height * width}, D).",
                hint="Leave class token and registers out: features=lambda x: net(x)[:, 1:].",
            )
        return {"tokens": found.float()} if facets else {}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: what could be trained is not known."""
        raise nothing_trainable(self.name)


def _modules_of(features: Callable[..., Any]) -> list[nn.Module]:
    """Return the modules that a function uses: itself, or what it closes over, names or is bound to."""
    if isinstance(features, nn.Module):
        return [features]
    inner: Any = inspect.unwrap(features)
    owner = getattr(inner, "__self__", None)
    if isinstance(owner, nn.Module):
        return [owner]
    code = getattr(inner, "__code__", None)
    cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    named = [inner.__globals__.get(name) for name in code.co_names] if code else []
    return [one for one in [*cells, *named] if isinstance(one, nn.Module)]


def _source(features: Callable[..., Any]) -> str:
    """Return a function's source; '' for a module, which is known by its class and weights."""
    if isinstance(features, nn.Module):
        return f"{type(features).__module__}.{type(features).__qualname__}"
    try:
        return inspect.getsource(features).strip()
    except (OSError, TypeError):
        return getattr(features, "__qualname__", type(features).__qualname__)
