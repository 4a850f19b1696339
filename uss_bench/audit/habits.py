"""What a habit of the field gives, priced on records: each configuration's gain, with its interval.

A habit that acts on counts is priced on any record, whose counts are scored twice. Any other takes two
records that differ in it alone (`uss_bench.audit.pairs`). Both sides are the same images and the same seeds,
so the test is paired by both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from uss_bench.audit.effects import acts, measured_on
from uss_bench.audit.pairs import PARAMETER, pairs_of
from uss_bench.results.collection import Configuration, is_floor
from uss_bench.results.differences import Change
from uss_bench.results.record import Checkpoint, Refinement
from uss_bench.results.scores import METRICS, Metric
from uss_bench.results.stated import Stated, main_settings
from uss_bench.statistics.comparing import Difference, difference
from uss_bench.statistics.sampling import Sampling


@dataclass(frozen=True)
class Habit:
    """Something that is done by habit: what changes when it is done."""

    title: str
    without: str
    """What is done otherwise, in words."""
    changes: tuple[Change, ...]
    main_only: bool = False
    """Price one configuration of each method, data and backbone, under protocols as published: the one
    nearest to its stated setting."""


HABITS = (
    Habit(
        "labels choose the checkpoint",
        "the last one is scored",
        (Change("checkpoint", "last", "selected"),),
        main_only=True,
    ),
    Habit(
        "pixels of extra clusters are left out",
        "they are errors",
        (Change("extra_clusters", "strict", "drop"),),
    ),
    Habit(
        "clusters are matched by the labels that score them",
        "by those of the training images",
        (Change("match_on", "train", "test"),),
    ),
    Habit(
        "test images are made smaller by NEAREST",
        "by an antialiased filter",
        (Change("resize", "bilinear", "nearest"),),
    ),
    Habit(
        "training images are made smaller by NEAREST",
        "by an antialiased filter",
        (Change("training.resize", "bilinear", "nearest"),),
    ),
    Habit(
        "five crops are stored as JPEG files",
        "without loss",
        (Change("training.crop_jpeg", False, True),),
    ),
    Habit(
        "the code of an image and of its mirror image are averaged",
        "the image alone",
        (Change("flip", False, True),),
    ),
    Habit(
        "the CRF sees BGR, truncated",
        "the image as it is",
        (Change("crf.channels", "rgb", "bgr"), Change("crf.truncate", False, True)),
    ),
    Habit(
        "the table of neighbors is made with dropout",
        "of clean features",
        (Change(f"{PARAMETER}neighbor_dropout", False, True),),
    ),
)
"""In the direction of the habit, so that a positive price is what it gives."""


@dataclass(frozen=True)
class Price:
    """What a habit gives to one configuration, in percent points: with it, less without it."""

    configuration: Configuration
    """The side without the habit; its entries are the seeds that count."""
    gained: Mapping[Metric, Difference]


def prices(
    habit: Habit, configurations: Sequence[Configuration], stated: Stated, floors: Collection[str] = ()
) -> list[Price]:
    """Price a habit on every configuration that shows it, but for the floors, which look at no feature.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    learned = [one for one in configurations if not is_floor(one, floors)]
    if habit.main_only:
        learned = main_settings([one for one in learned if "[" not in one.cell.protocol], stated)
    if measured_on(habit.changes[0]) == "counts":
        (change,) = habit.changes
        return [_rescored(change, one) for one in _affected(change, learned)]
    return [_paired(*pair) for pair in pairs_of(learned, habit.changes)]


def _affected(change: Change, configurations: Iterable[Configuration]) -> Iterable[Configuration]:
    for one in configurations:
        kept = tuple(entry for entry in one.entries if acts(change, entry))
        if kept and one.records[0].protocol.match_on == "test":
            yield replace(one, entries=kept)


def _rescored(change: Change, configuration: Configuration) -> Price:
    rules = configuration.records[0].protocol
    kind: Refinement = "crf" if configuration.refined else "raw"
    sides = []
    for value in (change.before, change.after):
        checkpoint: Checkpoint = value if change.field == "checkpoint" else "last"
        changed = {} if change.field == "checkpoint" else {change.field: value}
        counts = configuration.counts(kind, checkpoint)
        sides.append(Sampling.of(counts, msgspec.structs.replace(rules, **changed)))
    configuration.release()
    return _price(configuration, *sides)


def _paired(first: Configuration, second: Configuration) -> Price:
    kind: Refinement = "crf" if first.refined and second.refined else "raw"
    sides = [Sampling.of(one.counts(kind), one.records[0].protocol) for one in (first, second)]
    for one in (first, second):
        one.release()
    return _price(first, *sides)


def _price(configuration: Configuration, before: Sampling, after: Sampling) -> Price:
    gained = {metric: difference(after, before, metric, same_seeds=True) for metric in METRICS}
    return Price(configuration, gained)
