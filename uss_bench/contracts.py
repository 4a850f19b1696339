"""The contracts that everything else stands on: what crosses the border between harness and plugin.

The harness owns what crosses the border, *unlabelled images in, score maps out*, and all that
follows from it. A plugin owns what it does in between. Nothing here is meant to be inherited from:
these are protocols, and a plugin satisfies one by having its attributes.

Shapes use B images, N training items, D feature channels, d code channels, h×w patches, H×W pixels,
K clusters and C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

IGNORE = -1
"""The ignore index: pixels with this label are counted nowhere."""

Batch = Mapping[str, Tensor]
"""What `Method.embed` receives: one tensor per input that the method's spec names."""


# --------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of a dataset: its name, its colour (RGB, 0-255) and whether it is a thing."""

    name: str
    colour: tuple[int, int, int]
    kind: Literal["thing", "stuff"] | None = None


class Images(Protocol):
    """The images of one split, without labels: not hidden, absent.

    An implementation must not hold label arrays or the paths of label files, because the object
    itself is handed to methods. Sizes may differ from image to image; nothing is resized here,
    geometry belongs to the protocol.
    """

    ids: Sequence[str]

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 (H, W, 3), RGB, at its native size."""
        ...

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return further channels by name (infrared, depth), each (H, W) or (H, W, n)."""
        ...

    def fingerprint(self) -> str:
        """Return a hex digest that changes when any image of the split changes."""
        ...


class Labels(Protocol):
    """The ground truth of one split, in the order of the `Images` of the same split."""

    ids: Sequence[str]

    def __len__(self) -> int: ...

    def label(self, index: int) -> np.ndarray:
        """Return label map `index` as int16 (H, W): class 0..C-1, or `IGNORE`."""
        ...

    def fingerprint(self) -> str:
        """Return a hex digest that changes when any label of the split changes."""
        ...


class Dataset(Protocol):
    """A dataset on disk, or generated: classes, and splits of images and labels.

    Constructed by the registry with the spec first and the user's options as keywords.
    """

    name: str
    """What boards and records call it, e.g. ``potsdam3``; unlike the adapter's name for `folder`."""

    classes: Sequence[ClassInfo]
    """The class table, in label order; empty when the dataset has no labels."""

    splits: Sequence[str]

    train_split: str
    test_split: str

    def images(self, split: str) -> Images: ...

    def labels(self, split: str) -> Labels | None:
        """Return the split's labels, or None when it has none."""
        ...

    def prepare(self) -> None:
        """Put the data in place: download what may be downloaded, explain the rest."""
        ...

    def verify(self) -> str:
        """Read everything; raise `DataError` for the first wrong file, else say what was checked."""
        ...


# --------------------------------------------------------------------------------------------------
# Frozen features
# --------------------------------------------------------------------------------------------------


@runtime_checkable
class Backbone(Protocol):
    """A frozen network, or a fixed descriptor, that turns images into dense features.

    Facets are named by strings. Every backbone knows ``tokens`` (D, h, w). A ViT of n blocks also
    knows ``keys@i``, ``queries@i``, ``values@i`` (D, h, w) for i = 1..n, ``cls`` (D,),
    ``cls_attention`` (heads, h, w) and ``attention`` (heads, T, T), the last block's attention
    after the softmax with prefix tokens first.
    """

    name: str
    patch: int
    """Side of one patch in pixels: image sides must be multiples of it."""

    sha256: str
    """Digest of the weights (or of the descriptor's definition): part of every feature's identity."""

    def to(self, device: torch.device) -> Backbone: ...

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return the `facets` of `images`, float32 (B, 3, H, W) in [0, 1].

        With `grad` the result is attached to the graph of `images` and of the attention, so that
        ``torch.autograd.grad(loss(out["cls"]), out["attention"])`` works; parameters stay frozen.

        Raises:
            UsageError: for an unknown facet, or a side that is no multiple of the patch.
        """
        ...


class Features(Protocol):
    """What was asked for of the training items, by index: frozen features, stored or streamed.

    A training item is an image, or one crop of an image where the protocol takes five. ``image`` and
    ``aux:NAME`` come under the same geometry, so they lie over the features of the same index.
    """

    facets: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return item `index`: float32 (D, h, w) per facet ((D,) for ``cls``), on the CPU."""
        ...

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return the items stacked, (B, D, h, w) per facet, on the run's device."""
        ...

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per channel over the whole split, float32 (D,)."""
        ...

    def source(self, index: int) -> tuple[int, int]:
        """Return (image index, crop 0..4) of item `index`; the crop is 0 where each item is an image."""
        ...


class Stateful(Protocol):
    """What can say and resume its state: a module, an optimiser, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


Kept = Stateful | Tensor | torch.Generator
"""What a training loop changes from step to step. A tensor must be changed in place."""


class Context(Protocol):
    """What the harness lends to a method while it trains."""

    seed: int
    device: torch.device
    patch: int
    """Side of the backbone's patch: what `backbone` is given must have multiples of it."""
    scratch: Path
    """A folder of the run's own, deleted when its record is written."""

    def log(self, message: str) -> None: ...

    def progress(self, iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]: ...

    def steps(self, total: int, /, *, label: str = "training", **keep: Kept) -> Iterator[int]:
        """Yield the steps of training, 1 to `total`, such that a run that is killed can go on.

        Every minute the states of all in `keep` are put on disk, with those of the global random
        generators and what was reported and offered so far. A run that was killed finds them: then all in
        `keep` takes up its state, and the first step is the one after. The record is then the same as
        that of a run without interruption, if `keep` names all that a step reads and changes.
        """
        ...

    def report(self, step: int, **scalars: float | Tensor) -> None:
        """Put label-free training curves into the record; a NaN or infinity ends the run.

        Raises:
            Diverged: when a scalar is not finite, naming the step and the scalar.
        """
        ...

    def checkpoint(self, step: int) -> None:
        """Offer the method's present state; the runner scores the offers after training."""
        ...

    def generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator seeded by the run's seed and `purpose`, independent per purpose."""
        ...

    def features(self, inputs: Sequence[str] = ("tokens",)) -> Features:
        """Return frozen features, and ``image`` or ``aux:NAME`` beside them, of the training items.

        ``ctx.features(spec_inputs).batch(indices)`` is exactly what `Method.embed` will receive.
        """
        ...

    def derived(
        self,
        name: str,
        build: Callable[[Features], Mapping[str, np.ndarray]],
        facets: Sequence[str] = ("tokens",),
    ) -> dict[str, np.ndarray]:
        """Return arrays computed once from features and cached beside them (a kNN table).

        `name` must change when the result would: put parameters into it (``"knn@30"``).
        """
        ...

    def backbone(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Run the backbone live, for random views, attention or gradients; see `Backbone`.

        With `grad` everything that is returned is attached; detach what should not be.
        """
        ...


# --------------------------------------------------------------------------------------------------
# Methods
# --------------------------------------------------------------------------------------------------


class Method(Protocol):
    """A method: explicit keyword parameters (JSON values), a training loop, and two prediction steps.

    Prediction is two steps because the reference lineage averages flips and upsamples *the code,
    before the classifier*. A method that makes maps directly has ``embed`` return logits and
    ``classify`` return its input. The harness owns flips, upsampling, tiling, the softmax
    temperature and the CRF.
    """

    def train(self, data: Images, ctx: Context) -> None:
        """Learn from unlabelled native images and, through `ctx`, from frozen features.

        Afterwards the method must predict as `load_state_dict` of its state would: dropout off.
        """
        ...

    def embed(self, batch: Batch) -> Tensor:
        """Return the code, float (B, d, h, w), of the inputs that the spec names."""
        ...

    def classify(self, code: Tensor) -> Tensor:
        """Return logits, float (B, K, H, W), of a code (B, d, H, W) of any size, pointwise in space."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that prediction needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a fresh instance with the same parameters, so that it predicts identically.

        The state arrives on the device that prediction will use, and the method stays there.
        """
        ...


def predict(method: Method, batch: Batch) -> Tensor:
    """Return logits (B, K, h, w) at the code's own resolution: the two steps in one."""
    return method.classify(method.embed(batch))
