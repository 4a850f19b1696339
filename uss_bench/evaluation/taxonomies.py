"""Scoring one run under other classes: its counts, merged by a table that only merges and drops.

The clusters stay what they are, so that K is that of the run. Such scores are not those of a run with as many
clusters as the other classes, and never stand in a table with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uss_bench.errors import UsageError, did_you_mean
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import TaxonomySpec


def find_taxonomy(name: str, registry: Registry) -> tuple[str, TaxonomySpec]:
    """Return the dataset that has a taxonomy, and the taxonomy.

    Raises:
        UsageError: when none has it.
    """
    known = {
        taxonomy.name: (spec.name, taxonomy)
        for spec in (registry.dataset(one)[0] for one in registry.names("datasets"))
        for taxonomy in spec.taxonomies
    }
    if name not in known:
        raise UsageError(f"There is no taxonomy '{name}'.", hint=did_you_mean(name, known))
    return known[name]


def merge_counts(counts: np.ndarray, classes: Sequence[str], taxonomy: TaxonomySpec) -> np.ndarray:
    """Return counts by the classes of a taxonomy, (…, K, C'); pixels of dropped classes are left out.

    Args:
        counts: integer (…, K, C).
        classes: the names of the C classes.

    Raises:
        UsageError: when the taxonomy is no coarsening of these classes: one that it merges is not among them.
    """
    table = class_table(classes, taxonomy)
    columns = [counts[..., table == place].sum(axis=-1) for place in range(len(taxonomy.classes))]
    return np.stack(columns, axis=-1)


def class_table(classes: Sequence[str], taxonomy: TaxonomySpec) -> np.ndarray:
    """Return the class of a taxonomy that each of these classes counts as, int64 (C,); -1 for a dropped one.

    Raises:
        UsageError: when the taxonomy is no coarsening of these classes.
    """
    target = {source: place for place, all in enumerate(taxonomy.classes.values()) for source in all}
    if missing := [name for name in target if name not in classes]:
        raise UsageError(
            f"'{taxonomy.name}' merges classes that these counts do not tell apart, such as '{missing[0]}'.",
            hint="Counts can be merged, never split: run on the dataset that has the classes.",
        )
    return np.array([target.get(name, -1) for name in classes])
