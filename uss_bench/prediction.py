"""Labelling any images with a trained method: whole images, at their native size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from uss_bench.contracts import Backbone, Images, Method
from uss_bench.crf import CrfPool
from uss_bench.evaluation import pixel_logits
from uss_bench.features import to_unit_range
from uss_bench.geometry import resize
from uss_bench.inputs import channels_first, extra_channel
from uss_bench.protocol import Protocol
from uss_bench.specs import MethodSpec


@dataclass(frozen=True, slots=True)
class Predictor:
    """Applies a method under a protocol's scale, but to whole images.

    The short side becomes the protocol's evaluation side and the long side follows the aspect ratio,
    both rounded to multiples of the backbone's patch; the label map is brought back NEAREST.
    """

    method: Method
    spec: MethodSpec
    backbone: Backbone
    protocol: Protocol
    alpha: float
    device: torch.device

    def label_maps(self, images: Images, pool: CrfPool | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (id, integer cluster map at native size), refined if a pool is given."""
        sizes: list[tuple[int, int]] = []

        def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index in range(len(images)):
                native = images.image(index)
                sizes.append(native.shape[:2])
                work = resize(native, *self._work_size(*native.shape[:2]), self.protocol.resize)
                yield work, self._log_probs(work, images, index)

        maps = pool.labels(scored()) if pool else (logits.argmax(axis=0) for _, logits in scored())
        for index, labels in zip(itertools.count(), maps, strict=False):
            height, width = sizes[index]
            yield images.ids[index], resize(labels, height, width, "nearest")

    def _work_size(self, height: int, width: int) -> tuple[int, int]:
        scale = self.protocol.eval_side / min(height, width)
        patch = self.backbone.patch
        rows, columns = round(scale * height / patch), round(scale * width / patch)
        return max(1, rows) * patch, max(1, columns) * patch

    @torch.no_grad()
    def _log_probs(self, work: np.ndarray, images: Images, index: int) -> np.ndarray:
        code = self._embed(work, images, index)
        if self.protocol.flip:
            code = (code + self._embed(work[:, ::-1], images, index, mirrored=True).flip(3)) / 2
        logits = pixel_logits(self.method, code, (work.shape[0], work.shape[1]), self.protocol.upsample)[0]
        return torch.log_softmax(self.alpha * logits, dim=0).cpu().numpy()

    def _embed(self, work: np.ndarray, images: Images, index: int, *, mirrored: bool = False) -> torch.Tensor:
        image = to_unit_range(np.ascontiguousarray(work)[None], self.device)
        batch = {"image": image} if "image" in self.spec.inputs else {}
        if self.spec.facets:
            batch.update(self.backbone(image, self.spec.facets))
        for name in self.spec.inputs:
            if name.startswith("aux:"):
                batch[name] = self._aux(images, index, name.removeprefix("aux:"), work.shape, mirrored)
        return self.method.embed(batch)

    def _aux(
        self, images: Images, index: int, channel: str, size: tuple[int, ...], mirrored: bool
    ) -> torch.Tensor:
        plane = resize(extra_channel(images, index, channel), size[0], size[1], self.protocol.resize)
        plane = plane[:, ::-1] if mirrored else plane
        return torch.from_numpy(channels_first(plane))[None].to(self.device)
