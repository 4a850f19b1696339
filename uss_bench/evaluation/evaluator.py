"""Prediction and counting: what the harness does with a trained method, in constant memory.

For each image: embed it and its mirror image, average the two codes, upsample the code bilinearly to
pixels, classify, log-softmax(alpha × logits), dense CRF; then count raw and refined label maps
against the ground truth. The order is the reference lineage's (`stego320@2`), and `Protocol` says
what of it can be changed. Whole images (`full@2`) go through one by one, because their sizes differ.

Decoding, prediction and the CRF overlap: threads read images and labels ahead, this thread predicts and
counts, the pool's threads refine. Each stage holds a fixed number of images, and an image is decoded
once, whoever reads it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import IGNORE, Batch, Features, Labels
from uss_bench.crf import CrfPool
from uss_bench.data.geometry import TransformedImages, resize, scored_label
from uss_bench.data.prefetch import HeldImages, read_ahead
from uss_bench.evaluation.predictor import ValidatedMethod, log_probabilities, logits_of
from uss_bench.evaluation.scoring import count
from uss_bench.evaluation.upsampling import Predicts
from uss_bench.features.inputs import assemble
from uss_bench.protocol import Protocol
from uss_bench.results.arrays import stack_maps
from uss_bench.results.sparse_counts import SparseBuilder, SparseCounts
from uss_bench.runtime import progress

PANEL_IMAGES = 12
_NO_LABEL = np.empty((0, 0), dtype=np.int16)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Counts and kept maps of one evaluated state."""

    clusters: int
    raw: np.ndarray
    """int64 (N, K, C); (N, K, 0) without labels."""
    crf: np.ndarray | None
    """The same, refined; None where there is no CRF."""
    raw_maps: np.ndarray
    """uint8 or uint16 (M, H, W) of the kept images; several sizes as `stack_maps` has them."""
    crf_maps: np.ndarray | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read from disk for one image."""

    index: int
    native: np.ndarray | None
    """uint8 (H, W, 3); only where the method reads images."""
    label: np.ndarray


@dataclass(frozen=True, slots=True)
class _Scene(_Read):
    """The same where pixels are scored and refined."""

    scored: np.ndarray
    """uint8 (H, W, 3), see `TransformedImages.scored`."""


R = TypeVar("R", bound=_Read)


class Evaluator:
    """Evaluates states of one method on one split.

    Args:
        method_name: for messages.
        inputs: the inputs that the method's spec names.
        items: the evaluation items, with flips where the protocol averages them.
        features: features of these items; None for a method that reads no facets.
        labels: ground truth in the order of the items, validated; None to predict only.
        n_classes: C; 0 without labels.
        alpha: softmax temperature.
        pool: the CRF; None to leave predictions as they are.
        batch_size: images that are embedded at once; of whole images always one.
    """

    def __init__(
        self,
        *,
        method_name: str,
        inputs: Sequence[str],
        items: TransformedImages,
        features: Features | None,
        labels: Labels | None,
        n_classes: int,
        protocol: Protocol,
        alpha: float,
        pool: CrfPool | None,
        device: torch.device,
        batch_size: int = 8,
    ) -> None:
        self.method_name = method_name
        self.inputs = list(inputs)
        self.items = items
        self.features = features
        self.labels = labels
        self.n_classes = n_classes
        self.protocol = protocol
        self.alpha = alpha
        self.pool = pool
        self.device = device
        self.batch_size = 1 if items.whole else batch_size
        self.kept = panel_indices(items)
        self._reads_images = "image" in self.inputs

    def __len__(self) -> int:
        return self.items.unflipped

    def evaluate(self, method: Predicts) -> Evaluation:
        """Predict every image at pixel resolution, refine it, and count both.

        Raises:
            ContractError: when the method's output has a wrong shape or is not finite.
        """
        validated = ValidatedMethod(method, self.method_name)
        waiting: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()

        def predicted() -> Iterator[tuple[_Scene, Tensor]]:
            for scene, logits in self._pixel_logits(validated):
                raw_map = logits.argmax(dim=0).cpu().numpy().astype(map_dtype(len(logits)))
                waiting.append((raw_map, scene.label))
                yield scene, logits

        def refined(pool: CrfPool) -> Iterator[np.ndarray]:
            items = ((scene.scored, log_probabilities(logits, self.alpha)) for scene, logits in predicted())
            yield from pool.labels(items, self.items.images.ids)

        steps: Iterator[Any] = predicted() if self.pool is None else refined(self.pool)
        counts: list[list[np.ndarray]] = []
        kept: list[list[np.ndarray]] = []
        for index, step in enumerate(progress.track(steps, total=len(self), label="predict, CRF, count")):
            raw_map, label = waiting.popleft()
            maps = [raw_map] if self.pool is None else [raw_map, step.astype(raw_map.dtype)]
            counts.append([count(one, label, validated.clusters, self.n_classes) for one in maps])
            if index in self.kept:
                kept.append(maps)
        raw, *crf = (np.stack(one) for one in zip(*counts, strict=True))
        raw_maps, *crf_maps = (stack_maps(one) for one in zip(*kept, strict=True))
        return Evaluation(
            clusters=validated.clusters,
            raw=raw,
            crf=crf[0] if crf else None,
            raw_maps=raw_maps,
            crf_maps=crf_maps[0] if crf_maps else None,
        )

    @torch.no_grad()
    def patch_counts(self, states: Sequence[Predicts]) -> list[np.ndarray]:
        """Count unflipped predictions at the code's resolution, without CRF: int64 (K, C) per state.

        Every pixel counts, with the prediction of the patch that it lies in. All states are scored in
        one pass over the images.
        """
        methods = [ValidatedMethod(state, self.method_name) for state in states]
        totals: list[np.ndarray | int] = [0] * len(states)
        steps = progress.track(
            self._batches(self._read), total=-(-len(self) // self.batch_size), label="candidates"
        )
        for scenes in steps:
            batch = self._inputs(scenes, flipped=False)
            for position, method in enumerate(methods):
                predictions = method.classify(method.embed(batch)).argmax(dim=1).cpu().numpy()
                for prediction, label in zip(predictions, (one.label for one in scenes), strict=True):
                    at_pixels = resize(prediction, label.shape[0], label.shape[1], "nearest")
                    totals[position] += count(at_pixels, label, method.clusters, self.n_classes)
        return [np.asarray(total) for total in totals]

    @torch.no_grad()
    def pixel_counts(self, states: Sequence[Predicts]) -> list[SparseCounts]:
        """Count predictions at pixels as `evaluate` does, but without CRF, of each state.

        All states are scored in one pass over the images. K logits per pixel exist for a band of rows at a
        time, or for an image where the logits are upsampled bilinearly.
        """
        methods = [ValidatedMethod(state, self.method_name) for state in states]
        counts: list[SparseBuilder] = [SparseBuilder() for _ in states]
        by_band = self.protocol.upsample != "logits"
        read = progress.track(
            self._scenes(), total=-(-len(self) // self.batch_size), label="predict and count"
        )
        for scenes, batch, mirrored, sizes in read:
            for position, method in enumerate(methods):
                predicted = _Hard(method) if by_band else method
                maps = logits_of(predicted, batch, mirrored, sizes, self.protocol)
                for scene, found in zip(scenes, maps, strict=True):
                    prediction = (found[0].long() if by_band else found.argmax(dim=0)).cpu().numpy()
                    counts[position].add(count(prediction, scene.label, method.clusters, self.n_classes))
        return [one.counts() for one in counts]

    def unlabeled(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield what a method reads of some images, a batch at a time, and of their mirror images or None."""
        for start in range(0, len(indices), self.batch_size):
            scenes = [self._read_image(index) for index in indices[start : start + self.batch_size]]
            mirrored = self._inputs(scenes, flipped=True) if self.protocol.flip else None
            yield self._inputs(scenes, flipped=False), mirrored

    def _batches(self, read: Callable[[int], R]) -> Iterator[list[R]]:
        """Yield what is read from disk, a batch at a time, while the next batch is being read."""
        with contextlib.closing(read_ahead(read, range(len(self)), depth=self.batch_size)) as ahead:
            while batch := list(itertools.islice(ahead, self.batch_size)):
                yield batch

    def _read(self, index: int) -> _Read:
        return dataclasses.replace(self._read_image(index), label=self._label(index, None))

    def _read_image(self, index: int) -> _Read:
        return _Read(index, self.items.native(index) if self._reads_images else None, _NO_LABEL)

    def _read_scene(self, index: int) -> _Scene:
        native = self.items.native(index)
        scored = self.items.scored(index, native)
        label = self._label(index, scored.shape[:2])
        return _Scene(index, native if self._reads_images else None, label, scored)

    def _pixel_logits(self, method: Predicts) -> Iterator[tuple[_Scene, Tensor]]:
        """Yield what is scored, image by image, and its logits (K, H, W)."""
        for scenes, batch, mirrored, sizes in self._scenes():
            yield from zip(scenes, logits_of(method, batch, mirrored, sizes, self.protocol), strict=True)

    def _scenes(self) -> Iterator[tuple[list[_Scene], Batch, Batch | None, list[tuple[int, int]]]]:
        """Yield what is scored, a batch at a time, with what a method reads of it and its mirror images."""
        for scenes in self._batches(self._read_scene):
            batch = self._inputs(scenes, flipped=False)
            mirrored = self._inputs(scenes, flipped=True) if self.protocol.flip else None
            yield scenes, batch, mirrored, [(one.scored.shape[0], one.scored.shape[1]) for one in scenes]

    def _inputs(self, scenes: Sequence[_Read], *, flipped: bool) -> Batch:
        items = copy.copy(self.items)
        held = {items.source(one.index)[0]: one.native for one in scenes if one.native is not None}
        items.images = HeldImages(items.images, held)
        rows = [one.index + (items.unflipped if flipped else 0) for one in scenes]
        return assemble(self.inputs, items, self.features, rows, self.device)

    def _label(self, index: int, size: tuple[int, ...] | None) -> np.ndarray:
        """Return the labels of the pixels that are scored; without any, all of this size are ignored."""
        if self.labels is None:
            return np.full(size or (0, 0), IGNORE, dtype=np.int16)
        return scored_label(self.labels.label(index), self.protocol)


class _Hard:
    """A method whose logits are replaced by the index of the largest, (B, 1, H, W)."""

    def __init__(self, method: Predicts) -> None:
        self._method = method

    def embed(self, batch: Batch) -> Tensor:
        return self._method.embed(batch)

    def classify(self, code: Tensor) -> Tensor:
        return self._method.classify(code).argmax(dim=1, keepdim=True).float()


def panel_indices(items: TransformedImages) -> list[int]:
    """Choose the images whose maps are kept: the same for every method, and chosen by no person.

    They are the images whose id has the smallest digest together with the split's fingerprint.
    """
    salt = items.images.fingerprint()
    ranked = sorted(
        range(items.unflipped),
        key=lambda index: hashlib.sha256(f"{salt}/{items.images.ids[index]}".encode()).digest(),
    )
    return sorted(ranked[:PANEL_IMAGES])


def map_dtype(clusters: int) -> type[np.uint8] | type[np.uint16]:
    """Return the type of kept label maps of so many clusters."""
    return np.uint8 if clusters <= 256 else np.uint16
