"""The contracts that everything else stands on: what crosses the border between harness and plugin.

The harness owns what crosses the border, *unlabeled images in, score maps out*, and all that
follows from it. A plugin owns what it does in between. Nothing here is meant to be inherited from:
these are protocols, and a plugin satisfies one by having its attributes.

Shapes use B images, N training items, D feature channels, d code channels, h×w patches, P prefix
tokens, T = P + h·w tokens, H×W pixels, K clusters and C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")

IGNORE = -1
"""The ignore index: pixels with this label are counted nowhere."""

Batch = Mapping[str, Tensor]
"""What `Method.embed` receives: one tensor per input that the method names."""


# --------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of a dataset: its name, its color (RGB, 0-255) and whether it is a thing."""

    name: str
    color: tuple[int, int, int]
    kind: Literal["thing", "stuff"] | None = None


class Images(Protocol):
    """The images of one split. It holds no labels.

    An implementation must not hold label arrays or the paths of label files, because the object
    itself is handed to methods. Sizes may differ from image to image; nothing is resized here,
    geometry belongs to the method and the protocol.
    """

    ids: Sequence[str]

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 (H, W, 3), RGB, at its native size."""
        ...

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return further channels by name (infrared, depth), each numeric (H, W) or (H, W, n).

        H and W are those of the image. ``--aux NAME=DIR`` adds such channels to any dataset.
        """
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


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """What a backbone is and offers, known without running it."""

    name: str
    patch: int
    """Side of one patch in pixels: image sides must be multiples of it."""
    dim: int
    """D, the channels of ``tokens``."""
    blocks: int = 0
    """Number n of transformer blocks; 0 for a network without any, which has no facet with ``@``."""
    heads: int = 0
    """Attention heads of a block."""
    prefix: int = 0
    """P, the tokens before the patches: the class token first, if there is one, then registers."""
    facets: tuple[str, ...] = ("tokens",)
    """The facets by kind, such as ``("tokens", "tokens@i", "keys@i", "cls")``; i is any block."""
    parameters: int | None = None
    """Numbers that were learned or drawn; 0 for a fixed descriptor, None where nobody says."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What the backbone itself normalizes pixels in [0, 1] with, RGB."""


class TrainablePart(nn.Module):
    """A copy of a backbone, or of its last blocks, whose parameters are trained by a method.

    Its parameters start as the backbone's own, so its first output is the frozen ``tokens`` to
    rounding. The blocks require a gradient; behind the last blocks alone the final normalization does
    not, as in PPAP, unless a method changes that: ``part.norm.requires_grad_(True)``.
    """

    inputs: tuple[str, ...]
    """What `forward` reads of a batch: ``("tokens@-2", "prefix@-2")`` for the last block of a ViT,
    ``("image",)`` for a whole network."""

    def forward(self, batch: Batch) -> Tensor:
        """Return tokens, float32 (B, D, h, w), of the `inputs` in `batch`."""
        raise NotImplementedError


@runtime_checkable
class Backbone(Protocol):
    """A frozen network, or a fixed descriptor, that turns images into dense features.

    Facets are named by strings. Every backbone knows ``tokens``, the features that methods cluster.
    Block i of a ViT with n blocks is named 1..n, or -1..-n from the end; both name the same facet.

    ============================  ===============  =================================================
    ``tokens``                    (D, h, w)        patches after the final normalization
    ``cls``                       (D,)             class token after the final normalization
    ``tokens@i``                  (D, h, w)        patches as they leave block i, not normalized
    ``prefix@i``                  (P, D)           class token and registers as they leave block i
    ``queries@i keys@i values@i`` (D, h, w)        projections in block i; heads in a row
    ``attention@i``               (heads, T, T)    after the softmax; rows are queries, prefix first
    ``attention_mean@i``          (T, T)           its mean over heads
    ``attention_logits@i``        (heads, T, T)    q·k / sqrt(D / heads), before the softmax
    ``attention_logits_mean@i``   (T, T)           its mean over heads
    ``cls_attention@i``           (heads, h, w)    attention of the class token to the patches
    ============================  ===============  =================================================

    ``attention`` and ``cls_attention`` without a block are those of the last one.
    """

    name: str
    patch: int
    """Side of one patch in pixels: image sides must be multiples of it."""

    sha256: str
    """Digest of the weights (or of the descriptor's definition): part of every feature's identity.

    A network whose position embedding is interpolated also says who does it, in an attribute `positions`."""

    info: BackboneInfo

    def to(self, device: torch.device) -> Backbone: ...

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return the `facets` of `images`, float32 (B, 3, H, W) in [0, 1], under the names asked for.

        With `grad` the result is attached to the graph of `images` and of the attention, so that
        ``torch.autograd.grad(loss(out["cls"]), out["attention"])`` works; parameters stay frozen.

        Raises:
            UsageError: for an unknown facet, or a side that is not a multiple of the patch.
        """
        ...

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Return a trainable copy of the last blocks, or with None of the whole network.

        It draws no random number and is in evaluation mode, on the device that the backbone is on.

        Raises:
            UsageError: when the backbone has no such part, such as blocks of a fixed descriptor.
        """
        ...


class Sampler(Protocol):
    """Draws the indices of one batch after another, and can save and restore where it is.

    `uss_bench.nn.batches.ShuffledBatches` is one.
    """

    def __next__(self) -> Sequence[int]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Features(Protocol):
    """The inputs of the training items, by index: frozen features, stored or streamed, and images.

    A training item is an image, or one crop of an image where the method trains on five. ``image`` and
    ``aux:NAME`` come under the same geometry, so they lie over the features of the same index.

    ======================  ==================  ===========================================================
    a facet                 see `Backbone`      float32, rounded as it is stored
    ``image``               (3, side, side)     float32 in [0, 1], RGB
    ``aux:NAME``            (n, side, side)     float32, the values of the map as they are on disk
    ``aux:NAME@nearest``    (n, side, side)     the same, resized by nearest neighbor and not by the filter
    ======================  ==================  ===========================================================
    """

    facets: Sequence[str]
    """The names asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return item `index`, one tensor per name, on the CPU."""
        ...

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return the items stacked, (B, ...) per name, on the run's device."""
        ...

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Yield ``(indices, batch(indices))`` of one draw of `sampler` after another, without end.

        The next draws are looked up and read ahead in threads, which matters where features are
        streamed or images decoded. The sampler's state is always that of the last draw yielded, so
        keep the sampler itself in `Context.steps`.
        """
        ...

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per channel over the whole split, float32 (D,)."""
        ...

    def source(self, index: int) -> tuple[int, int]:
        """Return (image index, crop 0..4) of item `index`; the crop is 0 where each item is an image."""
        ...


class ImageReader(Protocol):
    """Training images as uint8, by item: decoded and resized once, or ahead of their use."""

    side: int
    """Height of an image, and its width, unless the training geometry squashes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Return item `index`, uint8 (3, side, side), RGB, on the CPU."""
        ...

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return items stacked, uint8 (B, 3, side, side), on the run's device.

        ``batch(indices) / 255`` is what `Context.backbone` takes.
        """
        ...

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield ``(indices, batch(indices))`` without end, read ahead; see `Features.batches`."""
        ...

    def source(self, index: int) -> tuple[int, int]:
        """Return (image index, crop) of item `index`; see `Features.source`."""
        ...


class ItemArrays(Protocol):
    """Arrays derived from every training item, memory-mapped; see `Context.derived_items`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays of item `index` by name. They are read from disk when they are used."""
        ...

    def batch(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        """Return one array of several items, stacked on the run's device.

        Raises:
            ValueError: when their shapes differ.
        """
        ...


class Stateful(Protocol):
    """Anything that can save and restore its state: a module, an optimizer, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


Kept = Stateful | Tensor | torch.Generator
"""What a training loop changes from step to step. A tensor must be changed in place."""


class Context(Protocol):
    """What the harness lends to a method while it trains."""

    seed: int
    device: torch.device
    info: BackboneInfo
    """The backbone: its depth, heads, channels, patch and facets."""
    patch: int
    """Side of the backbone's patch: what `backbone` is given must have multiples of it."""
    side: int
    """Height of a training item in pixels, and its width, unless the training geometry squashes."""
    grid: tuple[int, int]
    """(h, w), the patches of a training item."""
    scratch: Path
    """A folder of the run's own, kept through an interruption, deleted when its record is written."""

    def log(self, message: str) -> None: ...

    def progress(self, iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]: ...

    def steps(self, total: int, /, *, label: str = "training", **keep: Kept) -> Iterator[int]:
        """Yield the steps of a training loop, 1 to `total`, such that a run that is killed can go on.

        Every minute the states of all in `keep` are written to disk, with those of the global random
        generators and all that was reported and offered so far. A run that was killed finds them: then
        everything in `keep` takes up its state, and the first step is the one after. The record is then
        the same as that of a run without interruption, if `keep` names all that a step reads and changes.

        A run may have several loops, one after another or nested (epochs, and within an epoch one loop
        per pass). A loop that was finished yields nothing when the run goes on, and restores its `keep`;
        code between loops runs again, so it must be a function of what the loops keep.

        A snapshot writes every tensor in `keep` (a network with Adam is three times its parameters):
        keep what is cheap to write, and rebuild large buffers, or put them into `scratch`.

        Raises:
            ContractError: when a name in `keep` was bound to another object within the loop instead of
                being changed in place, or its state cannot be saved.
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

    def generator(self, purpose: str, *key: int) -> torch.Generator:
        """Return a CPU generator seeded by the run's seed, `purpose` and `key`, independent of all others.

        ``ctx.generator("views", epoch, item)`` is the same whenever and in whatever batch it is asked for.

        Raises:
            ContractError: while a derived array is built, which must not depend on the seed.
        """
        ...

    def features(self, inputs: Sequence[str] = ("tokens",)) -> Features:
        """Return frozen features, and ``image`` or ``aux:NAME`` beside them, of the training items.

        ``ctx.features(method.inputs).batch(indices)`` is exactly what `Method.embed` will receive.

        Raises:
            UsageError: for a facet that the backbone does not have.
            DataError: for a channel that the images do not have.
        """
        ...

    def images(
        self, *, side: int | None = None, filter: Literal["nearest", "bilinear", "bicubic"] | None = None
    ) -> ImageReader:
        """Return the training images as uint8 under the training geometry.

        Args:
            side: another height in pixels than `Context.side`; it need not be a multiple of the patch.
            filter: for resizing; None for the training geometry's.
        """
        ...

    def test_images(self) -> ImageReader:
        """Return the evaluated images, without labels, as uint8 under the training geometry, but whole.

        For a method that clusters what it is evaluated on. Its instance says so by a true attribute
        ``reads_test_images``; its trained state then serves these images alone, and the record says so.

        Raises:
            ContractError: when the method does not say so.
            UsageError: in an isolated process, which has no test image.
        """
        ...

    def derived(
        self,
        name: str,
        build: Callable[..., Mapping[str, np.ndarray]],
        inputs: Sequence[str] = ("tokens",),
        *,
        params: Mapping[str, Any] | None = None,
        seeded: bool = False,
    ) -> Mapping[str, np.ndarray]:
        """Return arrays computed once from the whole split and kept beside the features (a kNN table).

        ``build(features, **params)`` is called when they are not there yet, with what
        ``ctx.features(inputs)`` gives. The arrays are memory-mapped.

        Everything that decides the arrays is in their key: `name`, `params`, the source code of the
        module that defines `build` (and of what that imports from its folder and this package), and
        the identity of `inputs`. Therefore `build` must be a plain function of a module: no lambda with
        captured variables, no bound method, no `functools.partial`.

        Args:
            params: keyword arguments of `build`: JSON values, or a `Path`, which counts by its content,
                or a `TrainedRun`, which counts by its state.
            seeded: whether the arrays may depend on the run's seed. Then `build` also receives
                ``generator``, a CPU generator, and every seed has arrays of its own.

        Raises:
            ContractError: when `build` captures variables, draws from a global random generator, or
                returns anything but arrays.
        """
        ...

    def derived_items(
        self,
        name: str,
        build: Callable[..., Mapping[str, np.ndarray]],
        inputs: Sequence[str] = ("tokens",),
        *,
        params: Mapping[str, Any] | None = None,
        seeded: bool = False,
    ) -> ItemArrays:
        """Return arrays computed once from each training item (masks, eigenvectors, attention quantiles).

        As `derived`, but ``build(item, **params)`` receives one item, ``ctx.features(inputs)[index]``,
        and returns its arrays, whose shapes may differ from item to item. Items are built in threads
        over all cores and written as they are finished, so that an interrupted build goes on, and
        memory holds a few items at a time. With `seeded` each item has a ``generator`` of its own.

        Facets that are not stored are streamed and not stored for this: only the result is kept.
        """
        ...

    def backbone(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Run the backbone live, for random views, attention or gradients; see `Backbone`.

        With `grad` everything that is returned is attached; detach what should not be.
        """
        ...

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Return a trainable copy of the backbone's last blocks, or with None of all of it, on the device.

        A method that uses it has `Method.bind`, to make it again when its state is loaded.
        """
        ...


# --------------------------------------------------------------------------------------------------
# Methods
# --------------------------------------------------------------------------------------------------


class TrainedRun(Protocol):
    """Another run that a method builds upon: the value of a parameter annotated ``TrainedRun``.

    ``--set base=stego`` names a method, whose run on the same data and backbone and with the same seed
    is used; ``--set base=FILE.json`` names a record, and stands for its sibling of the same seed;
    ``--set base=FILE.safetensors`` is the trained state beside a record, for every seed. In a plan such
    runs come first, and those that nobody asked for are added.
    """

    method: str
    """The other method's name."""
    params: Mapping[str, Any]
    """All its parameters."""
    inputs: tuple[str, ...]
    """What its `Method.embed` reads."""
    cell: str
    """Id of the other run's cell; '' while no run has begun, as when a method is only looked at."""
    state: str
    """The sha256 of what the other run learned; '' while no run has begun."""

    def make(self) -> Method:
        """Return a fresh instance of the other method, for its own `load_state_dict`.

        This is for prediction: put what the other method learned into this method's state.
        """
        ...

    def load(self, device: torch.device) -> Method:
        """Return the other method as it was trained, ready to `embed` and `classify` on `device`.

        It is the same object each time: copy what you would change.

        Raises:
            UsageError: when its record is not in the results folder, or its state was not kept.
        """
        ...


class Method(Protocol):
    """A method: explicit keyword parameters (JSON values), a training loop, and two prediction steps.

    Prediction is two steps because the reference lineage averages flips and upsamples *the code,
    before the classifier*. A method that makes maps directly has ``embed`` return logits and
    ``classify`` return its input. The harness owns flips, upsampling, tiling, the softmax
    temperature and the CRF.

    A parameter annotated ``Path`` is a file, and one annotated ``TrainedRun`` another run: the first
    enters the run's identity by its content, the second by its cell.

    Two attributes are optional:

    - ``inputs``, a sequence of strings: what `embed` reads, where that depends on parameters. It takes
      the place of the spec's ``inputs``, and is read after ``__init__``.
    - ``bind(backbone: Backbone) -> None``: called once after ``__init__``, before `train` or
      `load_state_dict`. A method keeps what it needs to build its modules without seeing a feature:
      ``backbone.info``, or ``backbone.trainable``.
    """

    def train(self, data: Images, ctx: Context) -> None:
        """Learn from unlabeled native images and, through `ctx`, from frozen features.

        Afterwards the method must predict as `load_state_dict` of its state would: dropout off.
        """
        ...

    def embed(self, batch: Batch) -> Tensor:
        """Return the code, float (B, d, h, w), of the inputs that the method's spec or ``inputs`` names."""
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
