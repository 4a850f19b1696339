"""Scoring one run under other classes: its counts, merged by a table that only merges and drops.

The clusters stay what they are, so that K is that of the run. Such scores are not those of a run with as many
clusters as the other classes, and never stand in a table with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uss_bench.errors import UsageError
from uss_bench.plugins.specs import TaxonomySpec


def merge_counts(counts: np.ndarray, classes: Sequence[str], taxonomy: TaxonomySpec) -> np.ndarray:
    """Return counts by the classes of a taxonomy, (…, K, C'); pixels of dropped classes are left out.

    Args:
        counts: integer (…, K, C).
        classes: the names of the C classes.

    Raises:
        UsageError: when the taxonomy is no coarsening of these classes: one that it merges is not among them.
    """
    place = {name: index for index, name in enumerate(classes)}
    needed = [source for sources in taxonomy.classes.values() for source in sources]
    if missing := [name for name in needed if name not in place]:
        raise UsageError(
            f"'{taxonomy.name}' merges classes that these counts do not tell apart, such as '{missing[0]}'.",
            hint="Counts can be merged, never split: run on the dataset that has the classes.",
        )
    columns = [
        counts[..., [place[source] for source in sources]].sum(axis=-1)
        for sources in taxonomy.classes.values()
    ]
    return np.stack(columns, axis=-1)
