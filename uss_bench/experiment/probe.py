"""The linear probe: how much of the classes a linear map finds in a frozen code. It learns from labels.

A 1×1 convolution on the code is trained with the labels of the training split and evaluated like any
method, but for the matching: its outputs are classes. That is a statement about features, and never an
unsupervised result, so it leaves a file of its own and no record.

The STEGO lineage trains its probe beside the method; here it is a stage of its own, after it, on the
code that the run ended with. Loss, optimizer and learning rate are the lineage's: cross entropy of the
logits upsampled bilinearly to the training item's pixels, Adam at 5e-3. The code is standardized per
channel first, which leaves the map linear and lets one learning rate serve codes of any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import IGNORE, Batch, Labels
from uss_bench.crf import CrfPool
from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import Diverged
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.predictor import ValidatedMethod
from uss_bench.evaluation.scoring import score, score_row
from uss_bench.evaluation.upsampling import Predicts
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.some_items import ReadsBatches
from uss_bench.nn.standardizer import Standardizer
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.record import BackboneId, DatasetId, ScoreRow
from uss_bench.runtime import progress
from uss_bench.runtime.seeding import derive_seed
from uss_bench.training.clock import Clock
from uss_bench.training.source import TrainingSource

LABELS_USED = "linear probe"
_MOMENT_ITEMS = 512
"""Training items, evenly spaced, that the moments of the code are taken from."""


class ProbeConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1000
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 32
    lr: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    seed: int = 0


class ProbeResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a probe leaves: a supervised score, by another name than a record's."""

    schema: int = 2
    labels_used: list[str]
    record: str
    """Id of the probed record; empty for frozen features."""
    method: str
    dataset: DatasetId
    backbone: BackboneId
    training: TrainingGeometry
    protocol: str
    protocol_hash: str
    settings: ProbeConfiguration
    channels: int
    """Of the probed code."""
    train_images: int
    images: int
    classes: list[str]
    raw: ScoreRow
    crf: ScoreRow | None
    environment: dict[str, object] = {}
    command: str = ""
    created: str = ""


class LinearProbe(nn.Module):
    """Standardization and a 1×1 convolution: code (B, d, H, W) to class logits (B, C, H, W)."""

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

    def __init__(self, subject: Predicts, probe: LinearProbe) -> None:
        self._subject = subject
        self._probe = probe

    def embed(self, batch: Batch) -> Tensor:
        return self._subject.embed(batch)

    def classify(self, code: Tensor) -> Tensor:
        logits: Tensor = self._probe(code)
        return logits


def probe(
    setup: Setup,
    subject: Predicts,
    settings: ProbeConfiguration,
    *,
    store: FeatureStore,
    pool: CrfPool | None,
) -> tuple[int, ScoreRow, ScoreRow | None]:
    """Train a probe on the training split and evaluate it on the test split.

    Args:
        subject: what is probed; it reads the inputs that the setup's method names.

    Returns:
        The channels of the code, and the scores without and with CRF, None where the protocol has none.
        Classes are matched with themselves.

    Raises:
        UsageError: when a split has no labels.
        DataError: when an image or a label is wrong.
    """
    labels = setup.train_labels()
    subject = ValidatedMethod(subject, setup.spec.name)
    inputs, facets = setup.inputs, setup.facets
    items = setup.training_items()
    read = TrainingSource(items, store, Clock()).open(inputs, build=True)
    trained = train_probe(subject, read, items, labels, len(setup.dataset.classes), settings)

    test_items = setup.evaluation_items()
    evaluator = Evaluator(
        method_name=LABELS_USED,
        inputs=inputs,
        items=test_items,
        features=store.open(test_items, facets) if facets else None,
        labels=setup.test_labels,
        n_classes=len(setup.dataset.classes),
        protocol=setup.protocol,
        alpha=1.0,
        pool=pool,
        device=store.device,
    )
    found = evaluator.evaluate(Probed(subject, trained))

    def scored(counts: np.ndarray) -> ScoreRow:
        rule, classes = setup.protocol.absent_classes, np.arange(counts.shape[2])
        return score_row(score(counts, absent_classes=rule, class_of_cluster=classes))

    return trained.linear.in_channels, scored(found.raw), None if found.crf is None else scored(found.crf)


def train_probe(
    subject: Predicts,
    inputs: ReadsBatches,
    items: TransformedImages,
    labels: Labels,
    n_classes: int,
    settings: ProbeConfiguration,
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
        target = targets(items, labels, chosen).to(code.device)
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
def _code(subject: Predicts, inputs: ReadsBatches, rows: Sequence[int]) -> Tensor:
    return subject.embed(inputs.batch(rows))


def _moments(
    subject: Predicts, inputs: ReadsBatches, rows: Sequence[int], batch_size: int
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


def targets(items: TransformedImages, labels: Labels, rows: Sequence[int]) -> Tensor:
    """Return the labels of some items under their geometry, int64 (B, side, side)."""
    found = []
    for row in rows:
        image_index, _ = items.source(row)
        found.append(items.transform(labels.label(image_index), row, "nearest"))
    return torch.from_numpy(np.stack(found).astype(np.int64))
