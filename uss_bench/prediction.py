"""Labelling any images with a trained method: whole images, at their native size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from uss_bench.contracts import Images, Method
from uss_bench.crf import CrfPool
from uss_bench.encoding import Encoder, to_unit_range
from uss_bench.geometry import resize, working_size
from uss_bench.inputs import channels_first, extra_channel
from uss_bench.protocol import Protocol
from uss_bench.specs import MethodSpec
from uss_bench.upsampling import native_logits, pixel_logits


@dataclass(frozen=True, slots=True)
class Predictor:
    """Applies a method under a protocol's scale, but to whole images, at their `working_size`.

    Under a protocol of whole images this is what the evaluation does. Under one of squares pixels are
    labelled and refined at the working size, and the label map is brought back NEAREST.
    """

    method: Method
    spec: MethodSpec
    encoder: Encoder
    protocol: Protocol
    alpha: float

    def label_maps(self, images: Images, pool: CrfPool | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (id, integer cluster map at native size), refined if a pool is given."""
        sizes: list[tuple[int, int]] = []

        def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index in range(len(images)):
                native = images.image(index)
                sizes.append(native.shape[:2])
                height, width = native.shape[:2]
                size = working_size(height, width, self.protocol.eval_side, self.encoder.backbone.patch)
                work = resize(native, *size, self.protocol.resize)
                image = native if self.protocol.extent == "whole" else work
                yield image, self._log_probs(work, (image.shape[0], image.shape[1]), images, index)

        maps = pool.labels(scored()) if pool else (logits.argmax(axis=0) for _, logits in scored())
        for index, labels in zip(itertools.count(), maps, strict=False):
            height, width = sizes[index]
            yield images.ids[index], resize(labels, height, width, "nearest")

    @torch.no_grad()
    def _log_probs(self, work: np.ndarray, size: tuple[int, int], images: Images, index: int) -> np.ndarray:
        code = self._embed(work, images, index)
        if self.protocol.flip:
            code = (code + self._embed(work[:, ::-1], images, index, mirrored=True).flip(3)) / 2
        to_pixels = native_logits if self.protocol.extent == "whole" else pixel_logits
        logits = to_pixels(self.method, code, size, self.protocol.upsample)[0]
        return torch.log_softmax(self.alpha * logits, dim=0).cpu().numpy()

    def _embed(self, work: np.ndarray, images: Images, index: int, *, mirrored: bool = False) -> torch.Tensor:
        squares = np.ascontiguousarray(work)[None]
        batch = self.encoder(squares, self.spec.facets) if self.spec.facets else {}
        if "image" in self.spec.inputs:
            batch["image"] = to_unit_range(squares, self.encoder.device)
        for name in self.spec.inputs:
            if name.startswith("aux:"):
                batch[name] = self._aux(images, index, name.removeprefix("aux:"), work.shape, mirrored)
        return self.method.embed(batch)

    def _aux(
        self, images: Images, index: int, channel: str, size: tuple[int, ...], mirrored: bool
    ) -> torch.Tensor:
        plane = resize(extra_channel(images, index, channel), size[0], size[1], self.protocol.resize)
        plane = plane[:, ::-1] if mirrored else plane
        return torch.from_numpy(channels_first(plane))[None].to(self.encoder.device)
