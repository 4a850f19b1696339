"""Simulated settings whose true score is known, to try statistics on.

Classes are long-tailed, an image shows a few of them, some images are hard for every method, and each
image confuses its classes in its own way: what makes real scores hard to estimate from few images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uss_bench.evaluation.scoring import Scores, score_under
from uss_bench.protocol import Protocol

PIXELS = 10_000
"""Pixels of a simulated image."""

_SPARSITY = 0.15
"""Concentration of the Dirichlet that confusions come from: a class strays into few clusters."""


@dataclass(frozen=True)
class Images:
    """What n simulated images show."""

    shares: np.ndarray
    """float64 (n, C): each class's share of the pixels."""
    difficulty: np.ndarray
    """float64 (n,) in 0..1: how far every method falls back to its lapses."""

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator, *, classes: int = 27, tail: float = 1.0) -> Images:
        """Draw images; class c is shown with a chance that falls by a power of its rank.

        Args:
            tail: the exponent; at 1 and 27 classes the rarest is shown in about one image of thirty.
        """
        chance = 0.9 * np.arange(1, classes + 1.0) ** -tail
        shown = rng.random((n, classes)) < chance
        shown[np.arange(n), rng.choice(classes, n, p=chance / chance.sum())] = True
        areas = rng.gamma(0.7, size=(n, classes)) * shown
        return cls(areas / areas.sum(axis=1, keepdims=True), rng.beta(1, 3, n))


@dataclass(frozen=True)
class SimulatedMethod:
    """A method that puts class c into the clusters by ``confusion[c]``, more or less, in each image."""

    confusion: np.ndarray
    """float64 (C, K), rows sum to 1: what it does in easy images."""
    lapses: np.ndarray
    """float64 (C, K), rows sum to 1: what it does in the hardest."""
    consistency: float = 3.0
    """Concentration of the Dirichlet that an image's own confusion is drawn from."""

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, skill: float, classes: int = 27, clusters: int = 27
    ) -> SimulatedMethod:
        """Draw a method; `skill` is the mean share of a class that lands in its own cluster."""
        own = np.eye(clusters)[rng.permutation(clusters)[np.arange(classes) % clusters]]
        hit = rng.beta(2 * skill, 2 * (1 - skill), classes)[:, None]
        stray, lapses = rng.dirichlet(np.full(clusters, _SPARSITY), (2, classes))
        return cls(hit * own + (1 - hit) * stray, lapses)

    def towards(self, other: np.ndarray, share: float) -> SimulatedMethod:
        """Return the method with `share` of its confusion replaced by `other`, float64 (C, K)."""
        return SimulatedMethod((1 - share) * self.confusion + share * other, self.lapses, self.consistency)

    def retrained(self, rng: np.random.Generator, spread: float) -> SimulatedMethod:
        """Return the method of another seed: a share of up to 2 `spread` of its confusion is its own."""
        classes, clusters = self.confusion.shape
        other = rng.dirichlet(np.full(clusters, _SPARSITY), classes)
        return self.towards(other, 2 * spread * rng.random())

    def counts(self, images: Images, rng: np.random.Generator) -> np.ndarray:
        """Return counts of the images, int64 (n, K, C)."""
        n, classes = images.shares.shape
        image, shown = np.nonzero(images.shares)
        hard = images.difficulty[image, None]
        expected = (1 - hard) * self.confusion[shown] + hard * self.lapses[shown]
        rows = rng.gamma(self.consistency * expected + 1e-9)
        rows *= PIXELS * images.shares[image, shown][:, None] / rows.sum(axis=1, keepdims=True)
        counts = np.zeros((n, self.confusion.shape[1], classes), dtype=np.int64)
        counts[image, :, shown] = np.rint(rows)
        return counts

    def truth(self, population: np.ndarray, protocol: Protocol) -> Scores:
        """Return the score of a population in which each class meets its mean confusion.

        Args:
            population: what `population` returns.
        """
        easy, hard = PIXELS * population[:, :, None]
        return score_under(np.rint(easy * self.confusion + hard * self.lapses).astype(np.int64).T, protocol)


def population(images: int = 400_000, seed: int = 0, **world: float) -> np.ndarray:
    """Return the images that each class fills in easy and in hard pixels, float64 (2, C).

    Args:
        images: so many that chance hardly moves the sums.
        world: the keywords of `Images.draw`.
    """
    rng = np.random.default_rng(seed)
    drawn = Images.draw(images, rng, **world)  # type: ignore[arg-type]
    hard = (drawn.shares * drawn.difficulty[:, None]).sum(axis=0)
    return np.stack([drawn.shares.sum(axis=0) - hard, hard])
