"""The linear probe: how much of the classes a linear map finds in a frozen code. It learns from labels.

A 1×1 convolution on the code is trained with the labels of the training split and evaluated like any
method, but for the matching: its outputs are classes. That is a statement about features, and never an
unsupervised result, so it leaves a file of its own and no record.

The STEGO lineage trains its probe beside the method; here it is a stage of its own, after it, on the
code that the run ended with. Loss, optimiser and learning rate are the lineage's: cross entropy of the
logits upsampled bilinearly to the training item's pixels, Adam at 5e-3. The code is standardised per
channel first, which leaves the map linear and lets one learning rate serve codes of any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench import progress
from uss_bench.context import derive_seed
from uss_bench.contracts import IGNORE, Batch, Labels
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, Diverged, UsageError, blame
from uss_bench.evaluation import Evaluator
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.inputs import Inputs
from uss_bench.nn import ShuffledBatches, Standardizer
from uss_bench.records import BackboneId, DatasetId, ScoreRow
from uss_bench.runner import score_row
from uss_bench.scoring import score
from uss_bench.setup import Setup
from uss_bench.subset import limited_labels

LABELS_USED = "linear probe"
_MOMENT_ITEMS = 512
"""Training items, evenly spaced, that the moments of the code are taken from."""


class Embedding(Protocol):
    """What is probed: a trained method, or the frozen features."""

    def embed(self, batch: Batch) -> Tensor: ...


class Tokens:
    """The frozen features themselves."""

    def embed(self, batch: Batch) -> Tensor:
        return batch["tokens"]


class ProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1000
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 32
    lr: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    seed: int = 0


class ProbeResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a probe leaves: a supervised score, by another name than a record's."""

    schema: int = 1
    labels_used: list[str]
    record: str
    """Id of the probed record; empty for frozen features."""
    method: str
    dataset: DatasetId
    backbone: BackboneId
    protocol: str
    protocol_hash: str
    settings: ProbeSettings
    channels: int
    """Of the probed code."""
    train_images: int
    images: int
    classes: list[str]
    raw: ScoreRow
    crf: ScoreRow
    environment: dict[str, object] = {}
    command: str = ""
    created: str = ""


class LinearProbe(nn.Module):
    """Standardisation and a 1×1 convolution: code (B, d, H, W) to class logits (B, C, H, W)."""

    def __init__(self, channels: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.standardize = Standardizer(channels)
        self.linear = nn.Conv2d(channels, classes, 1)
        bound = channels**-0.5  # torch's own, but drawn from a generator of the probe's own
        for parameter in self.linear.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, code: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.standardize(code))
        return logits


class Probed:
    """A probe as the evaluator sees methods: the code of what is probed, and classes for clusters."""

    def __init__(self, subject: Embedding, probe: LinearProbe) -> None:
        self._subject = subject
        self._probe = probe

    def embed(self, batch: Batch) -> Tensor:
        return self._subject.embed(batch)

    def classify(self, code: Tensor) -> Tensor:
        logits: Tensor = self._probe(code)
        return logits


def train_labels(setup: Setup) -> Labels:
    """Return the labels of the training split.

    Raises:
        UsageError: when it has none.
    """
    dataset = setup.dataset
    labels = dataset.labels(dataset.train_split)
    if labels is None or setup.test_labels is None:
        split = dataset.train_split if labels is None else dataset.test_split
        raise UsageError(
            f"A linear probe learns from labels, and split '{split}' of '{dataset.name}' has none.",
            hint="Choose a labelled split (--data train=…), or a dataset with labels.",
        )
    return limited_labels(labels, setup.limit)


def probe(
    setup: Setup, subject: Embedding, settings: ProbeSettings, *, store: FeatureStore, pool: CrfPool
) -> tuple[int, ScoreRow, ScoreRow]:
    """Train a probe on the training split and evaluate it on the test split.

    Args:
        subject: what is probed; it reads the inputs that the setup's method names.

    Returns:
        The channels of the code, and the scores without and with CRF. Classes are matched with themselves.

    Raises:
        UsageError: when a split has no labels.
        DataError: when an image or a label is wrong.
    """
    labels = train_labels(setup)
    protocol, patch, inputs = setup.protocol, setup.backbone.patch, setup.spec.inputs
    five_crop = setup.dataset_spec.five_crop
    items = Items.for_training(setup.train_images, protocol, dataset_five_crop=five_crop, patch=patch)
    facets = setup.spec.facets
    features = store.open(items, facets) if facets else None
    read = Inputs(inputs, items, features, store.device)
    trained = train_probe(subject, read, items, labels, len(setup.dataset.classes), settings)

    test_items = Items.for_evaluation(setup.test_images, protocol, patch=patch)
    evaluator = Evaluator(
        method_name=LABELS_USED,
        inputs=inputs,
        items=test_items,
        features=store.open(test_items, facets) if facets else None,
        labels=setup.test_labels,
        n_classes=len(setup.dataset.classes),
        protocol=protocol,
        alpha=1.0,
        pool=pool,
        device=store.device,
    )
    found = evaluator.evaluate(Probed(subject, trained))
    rules = protocol.absent_classes
    raw, crf = (
        score_row(score(counts, matching="identity", absent_classes=rules))
        for counts in (found.raw, found.crf)
    )
    return trained.linear.in_channels, raw, crf


def train_probe(
    subject: Embedding,
    inputs: Inputs,
    items: Items,
    labels: Labels,
    n_classes: int,
    settings: ProbeSettings,
) -> LinearProbe:
    """Train a probe on the code of training items; pixels without a label teach nothing.

    Args:
        inputs: what the subject reads, of `items`.
        labels: of the images of `items`, at native size; brought under the items' geometry NEAREST.
    """
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, LABELS_USED))
    spaced = [index * len(items) // _MOMENT_ITEMS for index in range(_MOMENT_ITEMS)]
    mean, deviation = _moments(subject, inputs, sorted(set(spaced)), settings.batch_size)
    model = LinearProbe(len(mean), n_classes, generator)
    model.standardize.fit((mean, deviation))
    model.to(_code(subject, inputs, [0]).device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    batches = ShuffledBatches(len(items), settings.batch_size, generator)
    for step in progress.track(range(1, settings.steps + 1), total=settings.steps, label=LABELS_USED):
        chosen = next(batches)
        code = _code(subject, inputs, chosen)
        target = _targets(items, labels, chosen, n_classes).to(code.device)
        logits = F.interpolate(model(code), size=target.shape[1:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
        loss = total / (target != IGNORE).sum().clamp(min=1)
        if not torch.isfinite(loss):
            raise Diverged(f"The linear probe's loss is {float(loss)} at step {step}.", hint="Lower --lr.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def _code(subject: Embedding, inputs: Inputs, rows: Sequence[int]) -> Tensor:
    with blame("What is probed", "embed"):
        return subject.embed(inputs.batch(rows))


def _moments(
    subject: Embedding, inputs: Inputs, rows: Sequence[int], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation per channel of the code of some items, float32 (d,)."""
    total, squares, positions = torch.zeros(()), torch.zeros(()), 0
    for start in range(0, len(rows), batch_size):
        code = (
            _code(subject, inputs, rows[start : start + batch_size]).double().cpu().movedim(1, 0).flatten(1)
        )
        total = total + code.sum(dim=1)
        squares = squares + (code**2).sum(dim=1)
        positions += code.shape[1]
    mean = total / positions
    return mean.float(), (squares / positions - mean**2).clamp(min=0).sqrt().float()


def _targets(items: Items, labels: Labels, rows: Sequence[int], n_classes: int) -> Tensor:
    """Return the labels of some items under their geometry, int64 (B, side, side)."""
    targets = []
    for row in rows:
        image_index, _ = items.source(row)
        label = labels.label(image_index)
        if label.max() >= n_classes or label.min() < IGNORE:
            wrong = int(label.max() if label.max() >= n_classes else label.min())
            raise DataError(
                f"The label map of '{labels.ids[image_index]}' holds {wrong}; classes are 0 to "
                f"{n_classes - 1}, and -1 is ignored."
            )
        targets.append(items.transform(label, row, "nearest"))
    return torch.from_numpy(np.stack(targets).astype(np.int64))
