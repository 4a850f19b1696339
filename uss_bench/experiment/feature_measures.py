"""What frozen features are worth, by the measures of both communities, on the same pixels.

K-means and its controls are the methods `dino`, `pca` and `debias`, trained and predicted as `uss-bench run`
does, so that k-means with K = C is the baseline of the boards, before the CRF. Over-clustering gives
each cluster its most frequent class. In-context retrieval and the linear probe learn from labels.

Two protocols are conventions of other papers, and a measure that they define is theirs: k-means under
`neco@1` (`uss_bench.experiment.neco`), retrieval under `hummingbird@1`, where pixels without a label teach
class 0 and predicted classes are matched with classes, as the released code has it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Labels
from uss_bench.data.geometry import TransformedImages, resize_floor
from uss_bench.data.subset import Subset, SubsetLabels
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.scoring import score, score_row
from uss_bench.evaluation.upsampling import Predicts
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.neco import neco_clusterings
from uss_bench.experiment.probe import ProbeConfiguration, Probed, targets, train_probe
from uss_bench.experiment.resolving import Loaded, resolve
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.nn.retrieval import memory_bank
from uss_bench.nn.some_items import ReadsBatches, SomeItems
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import Matching, Protocol, get_protocol
from uss_bench.results.feature_record import LABELED, FeatureCell, FeatureRow, FeatureSettings, Measure
from uss_bench.results.sparse_counts import SparseCounts
from uss_bench.runtime import progress
from uss_bench.runtime.formatting import plural
from uss_bench.runtime.seeding import derive_seed, seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

BASELINE = "dino"
"""The method whose k-means is run on the features as they are, and whose training images all measures use."""
_METHODS: dict[Measure, str] = {"pca": "pca", "position-free": "debias"}
NECO = "neco"
HUMMINGBIRD = ("hummingbird", "hummingbird504")
CONVENTIONS = (NECO, *HUMMINGBIRD)
"""Names of the protocols that also say how a measure is taken, and what training images look like."""
_FEWEST_IMAGES = 4
"""A share of the labeled images that is smaller says more of the draw than of the features."""


@dataclass(frozen=True)
class _Task:
    """One thing that predicts, and the rows that its counts give."""

    make: Callable[[], Predicts]
    rows: Sequence[tuple[Measure, Matching | None]]
    train_images: int
    clusters: int | None = None
    dim: int | None = None
    share: int = 1
    draw: int = 0

    def scored(self, found: SparseCounts, setup: Setup) -> Iterator[FeatureRow]:
        counts = found.sum()
        absent, n_classes = setup.protocol.absent_classes, counts.shape[1]
        for measure, matching in self.rows:
            scores = (
                score(counts, absent_classes=absent, class_of_cluster=range(n_classes))
                if matching is None
                else score(counts, absent_classes=absent, matching=matching)
            )
            yield FeatureRow(
                measure=measure,
                uses_labels=measure in LABELED,
                clusters=self.clusters,
                dim=self.dim,
                matching=matching,
                share=self.share,
                draw=self.draw,
                train_images=self.train_images,
                scores=score_row(scores),
            )


class FeatureMeasurement:
    """The measures of one backbone on one data set, resolved and checked before any work is done.

    Args:
        asked: data set, backbone and protocol; its method and parameters do not matter. The protocol is taken
            without its CRF, and says what is scored; each measure says how clusters are matched.
        loaded: what earlier measurements loaded.

    Raises:
        UsageError: for a wrong name or setting, or where labels are needed and there are none.
        DataError: when data or weights are missing or wrong.
    """

    def __init__(
        self,
        asked: CellSpec,
        settings: FeatureSettings,
        registry: Registry,
        *,
        loaded: Loaded | None = None,
    ) -> None:
        self.settings = settings
        self._asked, self._registry, self._loaded = asked, registry, loaded or Loaded()
        self.setup = self._resolved(BASELINE)
        self.facet = "tokens"
        if self.setup.test_labels is None:
            raise UsageError(
                f"Features are measured against labels, and split '{self.setup.dataset.test_split}' of "
                f"'{self.setup.dataset.name}' has none.",
                hint="Choose a data set with labels: uss-bench ls datasets.",
            )
        self.labels = self.setup.train_labels() if set(settings.measures) & set(LABELED) else None
        self.left_out: list[str] = []
        self._check_clusters()

    def of_facet(self, facet: str) -> FeatureMeasurement:
        """Return the same measurement of another facet, whose store serves it as ``tokens``."""
        other = copy.copy(self)
        other.facet, other.left_out = facet, []
        return other

    def cell(self, seed: int) -> FeatureCell:
        """Return the inputs of the result of one seed."""
        base = self.setup.cell(seed)
        names = [BASELINE, *(_METHODS[one] for one in self.settings.measures if one in _METHODS)]
        labels = {} if self.labels is None else {"training labels": self.labels.fingerprint()}
        return FeatureCell(
            dataset=base.dataset,
            backbone=base.backbone,
            facet=self.facet,
            training=base.training,
            protocol=base.protocol,
            protocol_hash=base.protocol_hash,
            settings=self.settings,
            code={name: self._resolved(name).code for name in names} | labels,
            seed=seed,
        )

    def measure(self, store: FeatureStore, seed: int) -> list[tuple[FeatureRow, SparseCounts]]:
        """Return the rows of all measures under one seed, each with the counts that it was scored from."""
        items = self.setup.evaluation_items()
        evaluator = Evaluator(
            method_name="features",
            inputs=["tokens"],
            items=items,
            features=store.open(items, ["tokens"]),
            labels=self.setup.test_labels,
            n_classes=len(self.setup.dataset.classes),
            protocol=self.setup.protocol,
            alpha=1.0,
            pool=None,
            device=store.device,
        )
        rows: list[tuple[FeatureRow, SparseCounts]] = []
        self.left_out.clear()
        if self._too_many:
            self.left_out.append(self._too_many)
        with tempfile.TemporaryDirectory(prefix="uss-bench-") as scratch:
            for group in (self._unlabeled(store, seed, Path(scratch)), *self._labeled(store, seed)):
                tasks = list(group)
                counts = evaluator.pixel_counts([task.make() for task in tasks]) if tasks else []
                for task, found in zip(tasks, counts, strict=True):
                    rows += [(row, found) for row in task.scored(found, self.setup)]
        order = {name: place for place, name in enumerate(self.settings.measures)}
        return sorted(rows, key=lambda pair: order[pair[0].measure])

    def _resolved(self, method: str, **params: Any) -> Setup:
        protocol = get_protocol(self._asked.protocol) if self._asked.protocol else None
        conventional = {} if protocol is None or protocol.name not in CONVENTIONS else training_of(protocol)
        asked = msgspec.structs.replace(
            self._asked,
            method=method,
            preset=None,
            params=params,
            training={**conventional, **self._asked.training},
        )
        setup = resolve(asked, self._registry, self._loaded)
        if setup.protocol.match_on != "test":
            raise UsageError(
                "Measures of features match clusters on the images that they are scored on.",
                hint="Leave match_on=train out of the protocol.",
            )
        protocol = msgspec.structs.replace(setup.protocol, crf=None)
        return dataclasses.replace(setup, protocol=protocol)

    def _check_clusters(self) -> None:
        """Hold the numbers of clusters against the patches that they are made of.

        Raises:
            UsageError: when there are fewer patches than clusters that were asked for.
        """
        n_classes = len(self.setup.dataset.classes)
        asked = self.settings.clusters
        self._numbers = sorted(set(asked or [n_classes, 2 * n_classes, 100, 300, 500]))
        self._too_many = ""
        if "over-clustering" not in self.settings.measures:
            return
        own = self.setup.protocol.name != NECO
        items = self.setup.training_items() if own else self.setup.evaluation_items()
        cells = [side // self.setup.backbone.patch for side in items.size]  # of whole images about so many
        patches = items.unflipped * math.prod(cells)
        too_many = [number for number in self._numbers if number > patches]
        if not too_many:
            return
        there = f"{plural(items.unflipped, 'image')} of {patches} patches in all"
        numbers = ", ".join(map(str, too_many))
        if asked:
            raise UsageError(
                f"{there}, and over-clustering was asked for with K = {numbers}.",
                hint="Ask for fewer clusters with --clusters, or give more images.",
            )
        self._numbers = [number for number in self._numbers if number <= patches]
        self._too_many = f"Over-clustering with K = {numbers}: {there}."

    def _unlabeled(self, store: FeatureStore, seed: int, scratch: Path) -> Iterator[_Task]:
        """Yield the k-means and their controls, which see no label."""
        settings, measures = self.settings, self.settings.measures
        n_classes, images = len(self.setup.dataset.classes), len(self.setup.train_images)
        one_to_one: Matching = "iou" if self.setup.protocol.matching == "iou" else "hungarian"
        rows: dict[int, list[tuple[Measure, Matching | None]]] = {}
        if "kmeans" in measures:
            rows[n_classes] = [("kmeans", one_to_one)]
        if "over-clustering" in measures:
            for clusters in self._numbers:
                rows.setdefault(clusters, []).append(("over-clustering", "many-to-one"))

        def trained(method: str, **params: Any) -> Callable[[], Predicts]:
            setup = self._resolved(method, steps=settings.kmeans_steps, **params)
            return lambda: train_here(setup, store, seed, scratch)

        if rows and self.setup.protocol.name == NECO:
            items = self.setup.evaluation_items()
            generator = torch.Generator().manual_seed(derive_seed(seed, NECO))
            progress.log(f"k-means: {NECO}, K = {', '.join(map(str, sorted(rows)))}")
            found = neco_clusterings(store.open(items, ["tokens"]), rows, generator)
            for clusters, wanted in rows.items():
                yield _Task(
                    functools.partial(found.__getitem__, clusters),
                    wanted,
                    len(self.setup.test_images),
                    clusters,
                )
        else:
            for clusters, wanted in rows.items():
                yield _Task(trained(BASELINE, clusters=clusters), wanted, images, clusters)
        if "pca" in measures:
            for dim in sorted({min(dim, self.setup.backbone.info.dim) for dim in settings.pca_dims}):
                make = trained("pca", dim=dim)
                yield _Task(make, [("pca", one_to_one)], images, n_classes, dim)
        if "position-free" in measures:
            yield _Task(trained("debias"), [("position-free", one_to_one)], images, n_classes)

    def _labeled(self, store: FeatureStore, seed: int) -> Iterator[Iterator[_Task]]:
        """Yield what learns from labels, by the share of labeled images."""
        if self.labels is None:
            return
        total = len(self.labels)
        yield self._learned(store, seed, range(total), 1, 0)
        for share in self.settings.low_shot:
            count = round(total / share)
            if count < _FEWEST_IMAGES:
                self.left_out.append(f"1/{share} of {total} labeled images is fewer than {_FEWEST_IMAGES}.")
                continue
            for draw in range(self.settings.draws):
                chosen = torch.Generator().manual_seed(derive_seed(seed, "low-shot", share, draw))
                images = torch.randperm(total, generator=chosen)[:count].sort().values.tolist()
                yield self._learned(store, seed, images, share, draw)

    def _learned(
        self, store: FeatureStore, seed: int, images: Sequence[int], share: int, draw: int
    ) -> Iterator[_Task]:
        assert self.labels is not None, "only with labels"
        settings = self.settings
        problem = _LabeledImages.of(self.setup, store, self.labels, images)
        convention = self.setup.protocol.name in HUMMINGBIRD
        bank_seed = derive_seed(seed, "memory bank", share, draw)
        makers: dict[Measure, tuple[Callable[[], Predicts], Matching | None]] = {
            "retrieval": (
                lambda: problem.bank(settings, bank_seed, convention),
                "iou" if convention else None,
            ),
            "probe": (lambda: problem.probe(settings, seed), None),
        }
        for measure, (make, matching) in makers.items():
            if measure in settings.measures:
                yield _Task(make, [(measure, matching)], len(images), share=share, draw=draw)


def training_of(protocol: Protocol) -> dict[str, Any]:
    """Return the training geometry under which training images look as test images do, of squashed ones."""
    height, width = protocol.input_size
    return {
        "side": height,
        "width": width,
        "fit": "squash",
        "resize": protocol.resize,
        "crops": "none",
    }


def train_here(setup: Setup, store: FeatureStore, seed: int, scratch: Path) -> Predicts:
    """Train a built-in method in this process and return it; no record is written."""
    seed_everything(seed)
    method = setup.make_method()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        context = RunContext(
            method=method,
            items=setup.training_items(),
            store=store,
            seed=seed,
            scratch=Path(folder),
            clock=Clock(),
        )
        progress.log(f"k-means: {setup.spec.name}, K = {setup.params['clusters']}")
        with blame(f"Method '{setup.spec.name}'", "training"):
            method.train(setup.train_images, context)
    return method


@dataclass(frozen=True)
class _LabeledImages:
    """Training images, their features and their labels, for what learns from labels."""

    items: TransformedImages
    features: ReadsBatches
    labels: Labels
    n_classes: int

    @classmethod
    def of(cls, setup: Setup, store: FeatureStore, labels: Labels, images: Sequence[int]) -> _LabeledImages:
        """Take some images of the training split; their features are those of the whole split."""
        whole = setup.training_items()
        some = dataclasses.replace(setup, train_images=Subset(setup.train_images, images)).training_items()
        rows = [image * whole.crops + crop for image in images for crop in range(whole.crops)]
        features = SomeItems(store.open(whole, ["tokens"]), rows)
        return cls(some, features, SubsetLabels(labels, images), len(setup.dataset.classes))

    def bank(self, settings: FeatureSettings, seed: int, convention: bool) -> Predicts:
        try:
            return memory_bank(
                self.features,
                self._void_as_first_class
                if convention
                else lambda row: targets(self.items, self.labels, [row])[0],
                self.n_classes,
                torch.Generator().manual_seed(seed),
                size=settings.bank_size,
                neighbors=settings.neighbors,
                temperature=settings.temperature,
            )
        except ValueError as error:
            raise DataError(f"The memory bank is empty: {error}.") from None

    def _void_as_first_class(self, row: int) -> Tensor:
        """Return the labels of an item as open-hummingbird has them, int64 (H, W)."""
        label = resize_floor(self.labels.label(self.items.source(row)[0]), *self.items.size)
        return torch.from_numpy(np.maximum(label, 0).astype(np.int64))

    def probe(self, settings: FeatureSettings, seed: int) -> Predicts:
        configuration = ProbeConfiguration(
            steps=settings.probe_steps,
            batch_size=settings.probe_batch_size,
            lr=settings.probe_lr,
            seed=seed,
        )
        subject = _Tokens()
        trained = train_probe(subject, self.features, self.items, self.labels, self.n_classes, configuration)
        return Probed(subject, trained)


class _Tokens:
    """The features themselves as a code."""

    def embed(self, batch: Batch) -> Tensor:
        return batch["tokens"]

    def classify(self, code: Tensor) -> Tensor:
        return code
