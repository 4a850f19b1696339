"""What rounding features does to scores: float16 and int8 beside float32.

::

    python benchmarks/feature_dtypes.py [--seeds 3] [--limit 60] [--steps 200] [--protocol NAME] [--small]

Every cell is run as a command would run it, on toy3 and on CamVid where it lies in ``../shared/data/camvid``,
with the small ViT that ships with the package. Differences are of mIoU before the CRF, in points, against
float32 with the same seed: their mean, and the largest. Beside them stands by how much the seed alone moves
the score (standard deviation).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import arguments, begin, show

import uss_bench

METHODS = ("dino", "smooseg", "stego")
DTYPES = ("float32", "float16", "int8")
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def scores(out: Path, seeds: int, steps: int, **options: Any) -> dict[str, list[float]]:
    """Return the mIoU of each method by seed, in percent."""
    params = {f"{method}.{key}": value for method in METHODS[1:] for key, value in sizes(steps).items()}
    found = uss_bench.run(
        method=list(METHODS), seeds=seeds, params=params, out=out, backbone="tinyvit", workers=1, **options
    )
    by_method: dict[str, list[float]] = {method: [] for method in METHODS}
    for entry in found:
        last = entry.record.last
        assert last is not None
        assert last.raw.miou is not None
        by_method[entry.record.cell.method.name].append(last.raw.miou)
    return by_method


def sizes(steps: int) -> dict[str, int]:
    return {"steps": steps, "batch_size": 8}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60, help="images of each split")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--protocol", default="stego320@2")
    options = parser.parse_args()
    seeds, limit, steps = (1, 4, 1) if options.small else (options.seeds, options.limit, options.steps)
    begin(options)
    data: dict[str, dict[str, Any]] = {"toy3": {"dataset": "toy3"}}
    if CAMVID.exists() and not options.small:
        data["CamVid"] = {"dataset": "folder", "root": CAMVID, "classes": "camvid"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for title, given in data.items():
            found = {
                dtype: scores(
                    Path(name),
                    seeds,
                    steps,
                    feature_dtype=dtype,
                    limit=limit,
                    protocol=options.protocol,
                    **given,
                )
                for dtype in DTYPES
            }
            for method in METHODS:
                exact = found["float32"][method]
                row: list[object] = [title, method, statistics.mean(exact)]
                row.append(statistics.stdev(exact) if len(exact) > 1 else 0.0)
                for dtype in DTYPES[1:]:
                    moved = [one - other for one, other in zip(found[dtype][method], exact, strict=True)]
                    row += [statistics.mean(moved), max(map(abs, moved))]
                rows.append(row)
    headers = ["data", "method", "float32", "by seed", "float16", "largest", "int8", "largest"]
    title = (
        f"mIoU by what features are rounded to, tinyvit, {options.protocol}, {limit} images, {steps} steps"
    )
    show(title, rows, headers, ("", "", ".2f", ".2f", "+.2f", ".2f", "+.2f", ".2f"))


if __name__ == "__main__":
    main()
