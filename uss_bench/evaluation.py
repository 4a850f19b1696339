"""Prediction and counting: what the harness does with a trained method, in constant memory.

For each image: embed it and its mirror image, average the two codes, upsample the code bilinearly to
pixels, classify, log-softmax(alpha × logits), dense CRF; then count raw and refined label maps
against the ground truth. The order is the reference lineage's (`stego320@1`), and `Protocol` says
what of it can be changed. Whole images (`full@1`) go through one by one, because their sizes differ.

Decoding, prediction and the CRF overlap: threads read images and labels ahead, this thread predicts and
counts, the pool's processes refine. Each stage holds a fixed number of images, and an image is decoded
once, whoever reads it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from uss_bench import progress
from uss_bench.contracts import Batch, Features, Labels
from uss_bench.crf import CrfPool
from uss_bench.decoding import HeldImages, read_ahead
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.geometry import Items, resize, scored_label
from uss_bench.inputs import assemble
from uss_bench.protocol import Protocol
from uss_bench.record_files import pile
from uss_bench.scoring import count
from uss_bench.upsampling import Predicts, native_logits, pixel_logits

PANEL_IMAGES = 12


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Counts and kept maps of one evaluated state."""

    clusters: int
    raw: np.ndarray
    """int64 (N, K, C); (N, K, 0) without labels."""
    crf: np.ndarray
    raw_maps: np.ndarray
    """uint8 or uint16 (M, H, W) of the kept images; see `record_files.pile` for those of several sizes."""
    crf_maps: np.ndarray


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
    """uint8 (H, W, 3), see `Items.scored`."""


R = TypeVar("R", bound=_Read)


class Evaluator:
    """Evaluates states of one method on one split.

    Args:
        method_name: for messages.
        inputs: the inputs that the method's spec names.
        items: the evaluation items, with flips where the protocol averages them.
        features: features of these items; None for a method that reads no facets.
        labels: ground truth in the order of the items; None to predict only.
        n_classes: C; 0 without labels.
        alpha: softmax temperature.
        pool: the CRF.
        batch_size: images that are embedded at once; of whole images always one.
    """

    def __init__(
        self,
        *,
        method_name: str,
        inputs: Sequence[str],
        items: Items,
        features: Features | None,
        labels: Labels | None,
        n_classes: int,
        protocol: Protocol,
        alpha: float,
        pool: CrfPool,
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

    @torch.no_grad()
    def evaluate(self, method: Predicts) -> Evaluation:
        """Predict every image at pixel resolution, refine it, and count both.

        Raises:
            ContractError: when the method's output has a wrong shape or is not finite.
        """
        raw_counts: list[np.ndarray] = []
        crf_counts: list[np.ndarray] = []
        maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        clusters = 0
        waiting: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()

        def to_refine() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            nonlocal clusters
            for scene, logits in self._pixel_logits(method):
                clusters = self._same_clusters(clusters, len(logits))
                raw_map = logits.argmax(dim=0).cpu().numpy().astype(_map_dtype(clusters))
                waiting.append((raw_map, scene.label))
                yield scene.scored, torch.log_softmax(self.alpha * logits, dim=0).cpu().numpy()

        refined = progress.track(self.pool.labels(to_refine()), total=len(self), label="predict, CRF, count")
        for index, crf_map in enumerate(refined):
            raw_map, label = waiting.popleft()
            for counts, prediction in ((raw_counts, raw_map), (crf_counts, crf_map)):
                counts.append(count(prediction, label, clusters, self.n_classes))
            if index in self.kept:
                maps[index] = (raw_map, crf_map.astype(raw_map.dtype))
        return Evaluation(
            clusters=clusters,
            raw=np.stack(raw_counts),
            crf=np.stack(crf_counts),
            raw_maps=pile([maps[index][0] for index in self.kept]),
            crf_maps=pile([maps[index][1] for index in self.kept]),
        )

    @torch.no_grad()
    def patch_counts(self, states: Sequence[Predicts]) -> list[np.ndarray]:
        """Count unflipped predictions at the code's resolution, without CRF: int64 (K, C) per state.

        Every pixel counts, with the prediction of the patch that it lies in. All states are scored in
        one pass over the images.
        """
        totals: list[np.ndarray | None] = [None] * len(states)
        steps = progress.track(
            self._batches(self._read), total=-(-len(self) // self.batch_size), label="candidates"
        )
        for scenes in steps:
            batch = self._inputs(scenes, flipped=False)
            for position, method in enumerate(states):
                code = self._embed(method, batch, len(scenes))
                with blame(f"Method '{self.method_name}'", "classify"):
                    logits = method.classify(code)
                self._check_logits(logits, len(scenes), code.shape[2:])
                predictions = logits.argmax(dim=1).cpu().numpy()
                for prediction, label in zip(predictions, (one.label for one in scenes), strict=True):
                    at_pixels = resize(prediction, label.shape[0], label.shape[1], "nearest")
                    counts = count(at_pixels, label, logits.shape[1], self.n_classes)
                    previous = totals[position]
                    self._same_clusters(0 if previous is None else len(previous), logits.shape[1])
                    totals[position] = counts if previous is None else previous + counts
        return [total for total in totals if total is not None]

    def _batches(self, read: Callable[[int], R]) -> Iterator[list[R]]:
        """Yield what is read from disk, a batch at a time, while the next batch is being read."""
        with contextlib.closing(read_ahead(read, range(len(self)), depth=self.batch_size)) as ahead:
            while batch := list(itertools.islice(ahead, self.batch_size)):
                yield batch

    def _read(self, index: int) -> _Read:
        native = self.items.native(index) if self._reads_images else None
        return _Read(index, native, self._label(index, None))

    def _read_scene(self, index: int) -> _Scene:
        native = self.items.native(index)
        scored = native if self.items.whole else self.items.transform(native, index)
        label = self._label(index, scored.shape[:2])
        return _Scene(index, native if self._reads_images else None, label, scored)

    def _pixel_logits(self, method: Predicts) -> Iterator[tuple[_Scene, Tensor]]:
        """Yield what is scored, image by image, and its logits (K, H, W)."""
        to_pixels = native_logits if self.items.whole else pixel_logits
        for scenes in self._batches(self._read_scene):
            code = self._embed(method, self._inputs(scenes, flipped=False), len(scenes))
            if self.protocol.flip:
                mirrored = self._embed(method, self._inputs(scenes, flipped=True), len(scenes))
                code = (code + mirrored.flip(3)) / 2
            for scene, one in zip(scenes, code, strict=True):
                size = (scene.scored.shape[0], scene.scored.shape[1])
                with blame(f"Method '{self.method_name}'", "classify"):
                    logits = to_pixels(method, one[None], size, self.protocol.upsample)
                self._check_logits(logits, 1, size)
                yield scene, logits[0]

    def _inputs(self, scenes: Sequence[_Read], *, flipped: bool) -> Batch:
        items = copy.copy(self.items)
        held = {items.source(one.index)[0]: one.native for one in scenes if one.native is not None}
        items.images = HeldImages(items.images, held)
        rows = [one.index + (items.unflipped if flipped else 0) for one in scenes]
        return assemble(self.inputs, items, self.features, rows, self.device)

    def _embed(self, method: Predicts, batch: Batch, size: int) -> Tensor:
        with blame(f"Method '{self.method_name}'", "embed"):
            code = method.embed(batch)
        if not _is_map(code) or len(code) != size:
            raise ContractError(
                f"Method '{self.method_name}' embedded {size} images as {_shown(code)}; "
                f"a code is floating point (B, d, h, w)."
            )
        return code

    def _check_logits(self, logits: Tensor, batch: int, size: Sequence[int]) -> None:
        if not _is_map(logits) or len(logits) != batch or tuple(logits.shape[2:]) != tuple(size):
            raise ContractError(
                f"Method '{self.method_name}' classified a {tuple(size)} code as {_shown(logits)}; "
                f"logits are floating point (B, K, H, W), with the batch and the size of the code."
            )
        if not torch.isfinite(logits).all():
            raise ContractError(f"Method '{self.method_name}' predicted logits that are NaN or infinite.")

    def _same_clusters(self, before: int, now: int) -> int:
        if before not in (0, now):
            raise ContractError(
                f"Method '{self.method_name}' predicted {before} clusters for some images and {now} clusters "
                f"for others; K is one number."
            )
        return now

    def _label(self, index: int, size: tuple[int, ...] | None) -> np.ndarray:
        """Return the labels of the pixels that are scored, which must have this size if it is known."""
        if self.labels is None:
            return np.full(size or (0, 0), -1, dtype=np.int16)
        label = scored_label(self.labels.label(index), self.protocol)
        name = self.labels.ids[index]
        if size is not None and label.shape != size:
            raise DataError(
                f"The label map of '{name}' is {label.shape[1]}×{label.shape[0]} pixels, and its image "
                f"{size[1]}×{size[0]} (width × height)."
            )
        if label.max() >= self.n_classes or label.min() < -1:
            wrong = int(label.max() if label.max() >= self.n_classes else label.min())
            raise DataError(
                f"The label map of '{name}' holds {wrong}; classes are 0 to "
                f"{self.n_classes - 1}, and -1 is ignored."
            )
        return label


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point() and value.numel() > 0


def _shown(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def panel_indices(items: Items) -> list[int]:
    """Choose the images whose maps are kept: the same for every method, and nobody's cherries.

    They are the images whose id has the smallest digest together with the split's fingerprint.
    """
    salt = items.images.fingerprint()
    ranked = sorted(
        range(items.unflipped),
        key=lambda index: hashlib.sha256(f"{salt}/{items.images.ids[index]}".encode()).digest(),
    )
    return sorted(ranked[:PANEL_IMAGES])


def _map_dtype(clusters: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if clusters <= 256 else np.uint16
