"""Prediction: a method's two steps, held against the contract, and any images labeled with them.

The evaluation, ``uss-bench predict``, the probe and the checks of plugins all predict through this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Images
from uss_bench.crf import CrfPool
from uss_bench.data.geometry import check_sides, resize, working_size
from uss_bench.data.overlay import extra_channel
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.evaluation.upsampling import Predicts, native_logits, pixel_logits
from uss_bench.features.encoder import Encoder, to_unit_range
from uss_bench.features.planes import aux_channel, channels_first
from uss_bench.plugins.inputs import facets_of
from uss_bench.plugins.loading import inputs_of
from uss_bench.plugins.specs import MethodSpec
from uss_bench.protocol import Protocol
from uss_bench.runtime import progress


class ValidatedMethod:
    """A method whose codes and logits are checked as they come; every error names it.

    Raises:
        ContractError: when a step raises, an output has a wrong shape or type, logits are not finite, or
            the number of clusters changes.
    """

    def __init__(self, method: Predicts, name: str) -> None:
        self._method = method
        self._who = f"Method '{name}'"
        self.clusters = 0
        """K, once logits were predicted."""

    def embed(self, batch: Batch) -> Tensor:
        """Return the code, float (B, d, h, w), of a batch of B images."""
        size = len(next(iter(batch.values())))
        with blame(self._who, "embed"):
            code = self._method.embed(batch)
        if not is_map(code) or len(code) != size:
            raise ContractError(
                f"{self._who} embedded {size} images as {tensor_text(code)}; a code is float (B, d, h, w)."
            )
        return code

    def classify(self, code: Tensor) -> Tensor:
        """Return logits, float (B, K, H, W), of a code (B, d, H, W)."""
        with blame(self._who, "classify"):
            logits = self._method.classify(code)
        if not is_map(logits) or (len(logits), *logits.shape[2:]) != (len(code), *code.shape[2:]):
            raise ContractError(
                f"{self._who} classified a code of {tensor_text(code)} as {tensor_text(logits)}; "
                f"logits are floating point (B, K, H, W), with the batch and the size of the code."
            )
        if not torch.isfinite(logits).all():
            raise ContractError(f"{self._who} predicted logits that are NaN or infinite.")
        if self.clusters not in (0, logits.shape[1]):
            raise ContractError(
                f"{self._who} predicted {self.clusters} clusters for some images and {logits.shape[1]} "
                "clusters for others; K is one number."
            )
        self.clusters = logits.shape[1]
        return logits


@torch.no_grad()
def logits_of(
    method: Predicts,
    batch: Batch,
    mirrored: Batch | None,
    sizes: Sequence[tuple[int, int]],
    protocol: Protocol,
) -> Iterator[Tensor]:
    """Yield the logits (K, H, W) of every image of a batch, at its size in pixels.

    Args:
        mirrored: the same images flipped left to right, whose codes are averaged with theirs; None for none.
        sizes: height and width in pixels, one per image.
    """
    code = method.embed(batch)
    if mirrored is not None:
        code = (code + method.embed(mirrored).flip(3)) / 2
    to_pixels = native_logits if protocol.extent == "whole" else pixel_logits
    for one, size in zip(code, sizes, strict=True):
        yield to_pixels(method, one[None], size, protocol.upsample)[0]


def log_probabilities(logits: Tensor, alpha: float) -> np.ndarray:
    """Return log-softmax(alpha × logits), float32 (K, H, W): what the CRF refines."""
    scaled: np.ndarray = torch.log_softmax(alpha * logits, dim=0).cpu().numpy()
    return scaled


@dataclass(frozen=True, slots=True)
class Predictor:
    """Applies a method under a protocol's scale, but to whole images, at their `working_size`.

    Under a protocol of whole images this is what the evaluation does. Under the others pixels are labeled and
    refined at the working size, which is the protocol's own where it squashes, and the label map is brought
    back NEAREST.
    """

    method: Predicts
    spec: MethodSpec
    encoder: Encoder
    protocol: Protocol
    alpha: float
    failed: dict[str, str] = field(default_factory=dict)
    """The images that could not be read, by id, with the reason."""

    def label_maps(self, images: Images, pool: CrfPool | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (id, integer cluster map at native size), refined if a pool is given.

        An image that cannot be read is left out, and `failed` names it.
        """
        pending: deque[tuple[str, int, int]] = deque()
        names: list[str] = []

        def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            method = ValidatedMethod(self.method, self.spec.name)
            for index, name in progress.track(enumerate(images.ids), total=len(images), label="predict"):
                try:
                    native = images.image(index)
                    check_sides(name, native)
                    height, width = native.shape[:2]
                    work = resize(native, *self._size(height, width), self.protocol.resize)
                    batch = self._batch(work, images, index, mirrored=False)
                    mirrored = self._batch(work, images, index, mirrored=True) if self.protocol.flip else None
                except DataError as error:
                    self.failed[name] = error.what
                    continue
                image = native if self.protocol.extent == "whole" else work
                pixels = (image.shape[0], image.shape[1])
                (logits,) = logits_of(method, batch, mirrored, [pixels], self.protocol)
                pending.append((name, height, width))
                names.append(name)
                yield image, log_probabilities(logits, self.alpha)

        maps = pool.labels(scored(), names) if pool else (scores.argmax(axis=0) for _, scores in scored())
        for labels in maps:
            name, height, width = pending.popleft()
            yield name, resize(labels, height, width, "nearest")

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the working size of an image."""
        if self.protocol.extent == "squash":
            return self.protocol.input_size
        return working_size(height, width, self.protocol.eval_side, self.encoder.backbone.patch)

    def _batch(self, work: np.ndarray, images: Images, index: int, *, mirrored: bool) -> Batch:
        """Return what `embed` receives for one image at its working size, uint8 (H, W, 3), or its mirror."""
        turn = slice(None, None, -1) if mirrored else slice(None)
        squares = np.ascontiguousarray(work[:, turn])[None]
        inputs = inputs_of(self.spec, self.method)
        facets = facets_of(inputs)
        batch = self.encoder(squares, facets) if facets else {}
        if "image" in inputs:
            batch["image"] = to_unit_range(squares, self.encoder.device)
        for name in inputs:
            if name.startswith("aux:"):
                channel, filter = aux_channel(name)
                plane = extra_channel(images, index, channel)
                plane = resize(plane, work.shape[0], work.shape[1], filter or self.protocol.resize)[:, turn]
                batch[name] = torch.from_numpy(channels_first(plane))[None].to(self.encoder.device)
        return batch


def is_map(value: object) -> TypeGuard[Tensor]:
    """Whether a value is floating point of four dimensions, none of them empty."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point() and value.numel() > 0


def tensor_text(value: object) -> str:
    """Describe what should have been a tensor: ``2×90×40×40 float32``."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{'×'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
