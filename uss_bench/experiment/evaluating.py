"""What a record says of a trained state: its counts, scores, candidates and label-free readings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from uss_bench.contracts import Method
from uss_bench.crf import CrfPool
from uss_bench.errors import blame
from uss_bench.evaluation.evaluator import Evaluation, Evaluator
from uss_bench.evaluation.scoring import match_all, score_row, score_under
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.protocol import Protocol
from uss_bench.results.arrays import Arrays
from uss_bench.results.record import (
    Candidate,
    Checkpoint,
    CheckpointResult,
    Criteria,
    MonitorPoint,
    Refinement,
    ScoreRow,
)
from uss_bench.results.states import Trained
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext
from uss_bench.training.criteria import read_criteria, sample_images
from uss_bench.training.monitoring import monitor, sample_batches


def make_evaluator(
    setup: Setup, store: FeatureStore, pool: CrfPool | None, clock: Clock, *, on_train: bool = False
) -> Evaluator:
    """Build the evaluator of the test or the training split, extracting features that are missing."""
    items = setup.evaluation_items(setup.train_images if on_train else None)
    with clock.phase("extract"):
        features = store.open(items, setup.facets) if setup.facets else None
    return Evaluator(
        method_name=setup.spec.name,
        inputs=setup.inputs,
        items=items,
        features=features,
        labels=setup.train_labels() if on_train else setup.test_labels,
        n_classes=len(setup.dataset.classes),
        protocol=setup.protocol,
        alpha=setup.alpha,
        pool=pool,
        device=store.device,
    )


def evaluate_state(setup: Setup, method: Method, store: FeatureStore, pool: CrfPool | None) -> Arrays:
    """Return the counts and maps of a trained method, as its record's last checkpoint has them."""
    evaluator = make_evaluator(setup, store, pool, Clock())
    return counts_and_maps(setup, evaluator, {"last": evaluator.evaluate(method)})


def matchings(
    setup: Setup, states: Sequence[Method], store: FeatureStore, clock: Clock
) -> list[np.ndarray | None]:
    """Return the class of each cluster of every state, or None where the test images decide it.

    Matching on the training split takes unrefined, unflipped predictions at the code's resolution, as
    candidates are scored.
    """
    protocol = setup.protocol
    if protocol.match_on == "test" or setup.test_labels is None:
        return [None] * len(states)
    evaluator = make_evaluator(setup, store, None, clock, on_train=True)
    with clock.phase("match"):
        counts = evaluator.patch_counts(states)
    return [match_all(one, protocol.matching, protocol.extra_clusters) for one in counts]


def choose_candidate(
    setup: Setup,
    method: Method,
    trained: Trained,
    evaluator: Evaluator,
    store: FeatureStore,
    clock: Clock,
) -> tuple[list[Candidate], tuple[int, Path] | None]:
    """Score the offered checkpoints with labels; return them and the winner, None if it is the last."""
    if setup.test_labels is None or not trained.offers:
        return [], None
    with clock.phase("candidates"):
        states = [setup.make_method(path.read_bytes(), store.device) for _, path in trained.offers]
        counts = evaluator.patch_counts([*states, method])
    scores = [
        score_under(one, setup.protocol, classes)
        for one, classes in zip(counts, matchings(setup, [*states, method], store, clock), strict=True)
    ]
    steps = [step for step, _ in trained.offers] + [None]
    candidates = [
        Candidate(step=step, accuracy=100 * one.accuracy, miou=100 * one.miou)
        for step, one in zip(steps, scores, strict=True)
    ]
    best = max(range(len(scores)), key=lambda index: (scores[index].miou, index))
    return candidates, (trained.offers[best] if best < len(trained.offers) else None)


def monitor_points(setup: Setup, context: RunContext, n_items: int, trained: Trained) -> list[MonitorPoint]:
    """Read the offered states and the last one on unlabeled training items; nothing if nothing was trained.

    The state at the end of training is left out where the last offer is the same.

    Args:
        n_items: number of training items.
    """
    if not trained.offers and not trained.curves:
        return []
    states: list[tuple[int | None, Callable[[], bytes]]] = [
        (step, path.read_bytes) for step, path in trained.offers
    ]
    if not trained.offers or trained.offers[-1][1].read_bytes() != trained.state:
        states.append((None, lambda: trained.state))
    with blame(f"Method '{setup.spec.name}'", "monitoring"):
        methods = ((step, setup.make_method(read(), context.device)) for step, read in states)
        batches = [context.sample(setup.inputs, indices) for indices in sample_batches(n_items)]
        return monitor(methods, batches, setup.alpha)


def label_free_criteria(setup: Setup, method: Method, evaluator: Evaluator) -> Criteria:
    """Read the final state on some of the evaluated images, without their labels."""
    with blame(f"Method '{setup.spec.name}'", "predicting without labels"):
        batches = evaluator.unlabeled(sample_images(len(evaluator)))
        return read_criteria(method, batches, setup.facets)


def scored_result(
    step: int | None, evaluation: Evaluation, protocol: Protocol, classes: np.ndarray | None
) -> CheckpointResult:
    def scored(counts: np.ndarray) -> ScoreRow:
        return score_row(score_under(counts, protocol, classes))

    crf = None if evaluation.crf is None else scored(evaluation.crf)
    return CheckpointResult(step=step, raw=scored(evaluation.raw), crf=crf)


def counts_and_maps(setup: Setup, evaluator: Evaluator, evaluations: dict[Checkpoint, Evaluation]) -> Arrays:
    counts: dict[tuple[Checkpoint, Refinement], np.ndarray] = {}
    maps: dict[tuple[Checkpoint, Refinement], np.ndarray] = {}
    for name, one in evaluations.items():
        maps[name, "raw"] = one.raw_maps
        if setup.test_labels is not None:
            counts[name, "raw"] = one.raw
        if one.crf is not None and one.crf_maps is not None:
            maps[name, "crf"] = one.crf_maps
            if setup.test_labels is not None:
                counts[name, "crf"] = one.crf
    return Arrays(
        image_ids=list(setup.test_images.ids),
        counts=counts,
        map_ids=[setup.test_images.ids[index] for index in evaluator.kept],
        maps=maps,
    )
