"""The counts that rows of measured features are scored from, in a file beside their record."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uss_bench.errors import DataError
from uss_bench.files.arrays import read_npz
from uss_bench.results.feature_record import SUFFIX
from uss_bench.results.sparse_counts import SparseCounts

COUNTS_SUFFIX = ".features.npz"


def counts_path(record: Path) -> Path:
    """Return where the counts lie that a record's rows are scored from."""
    return record.with_name(record.name.removesuffix(SUFFIX) + COUNTS_SUFFIX)


def pack_counts(counts: Sequence[SparseCounts]) -> bytes:
    """Return an npz of the counts of each row; rows that share them have them once."""
    distinct = list({id(one): one for one in counts}.values())
    places = {id(one): place for place, one in enumerate(distinct)}
    arrays = {
        f"{place}.{name}": array for place, one in enumerate(distinct) for name, array in one.arrays().items()
    }
    arrays["rows"] = np.array([places[id(one)] for one in counts], dtype=np.int64)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]  # its stub takes any name for an option
    return packed.getvalue()


def read_counts(record: Path, rows: int) -> list[SparseCounts] | None:
    """Return the counts of each of a record's rows; None where none are kept, as of earlier versions.

    Raises:
        DataError: when the file is damaged, or belongs to another record.
    """
    path = counts_path(record)
    if not path.exists():
        return None
    try:
        arrays = read_npz(path.read_bytes())
        places = [int(place) for place in arrays["rows"]]
        found = {
            place: SparseCounts.from_arrays(
                {name: arrays[f"{place}.{name}"] for name in ("shape", "start", "pair", "pixels")}
            )
            for place in set(places)
        }
        if len(places) != rows:
            raise ValueError(f"it has counts of {len(places)} rows, and the record {rows}")
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Measure again with --force.") from None
    return [found[place] for place in places]
