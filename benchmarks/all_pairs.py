"""What it takes to compare all methods of a table with each other: processor time and memory of the command.

::

    python benchmarks/all_pairs.py [--methods 20] [--images 20000] [--repeats 1] [--small]

Records of simulated methods with 27 clusters and 27 classes are written as any others, counts before and
after the CRF. `uss-bench compare --all` then resamples each method a thousand times with matching anew,
leaves out each image in turn, and compares every pair. Beside it stands the same for a quarter of the images
and for half of the methods: memory should follow the images alone. Linux only, for the memory.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import arguments, show

from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results import record as schema
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import write_record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from simulation import Images, SimulatedMethod

CLASSES = 27
PROTOCOL = get_protocol("stego320@2")
# A process inherits the largest size of who started it, but not the status of its memory.
COMPARE = """
import atexit, pathlib, sys, time
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(time.process_time(), status.read_text().split("VmHWM:")[1].split()[0]))
from uss_bench.cli import main
main()
"""


def write_method(folder: Path, number: int, world: Images, rng: np.random.Generator) -> None:
    """Write the record of a simulated method."""
    counts = SimulatedMethod.draw(rng, skill=0.4, classes=CLASSES, clusters=CLASSES).counts(world, rng)
    row = score_row(score_under(counts, PROTOCOL))
    cell = schema.Cell(
        method=schema.MethodId(name=f"method-{number:02d}", params={}, code="0" * 12),
        dataset=schema.DatasetId(
            name="simulated", fingerprint="0", train_split="train", test_split="test", limit=None
        ),
        backbone=schema.BackboneId(name="none", sha256="", feature_dtype="float16"),
        training=TrainingGeometry(),
        protocol=PROTOCOL.id,
        protocol_hash=PROTOCOL.hash,
        alpha=2.0,
        seed=0,
    )
    record = schema.RunRecord(
        schema=schema.SCHEMA,
        id=cell.id,
        status="done",
        cell=cell,
        protocol=PROTOCOL,
        classes=[schema.ClassRow(name=f"class {c}", color=(c, 0, 0)) for c in range(CLASSES)],
        clusters=CLASSES,
        images=len(counts),
        last=schema.CheckpointResult(step=None, raw=row, crf=row),
        selected=None,
        candidates=[],
        phases={},
        command="",
        environment={},
    )
    ids = [f"{index:06d}" for index in range(len(counts))]
    both = {("last", "raw"): counts, ("last", "crf"): counts}
    write_record(folder, record, Arrays(ids, both, [], {}), None)


def compare_all(folder: Path) -> tuple[float, float]:
    """Return processor time in seconds and the largest memory in MB of comparing all records of a folder."""
    command = [sys.executable, "-c", COMPARE, "compare", "--all", "--crf", "--records", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), int(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    methods, images = (4, 60) if options.small else (options.methods, options.images)
    rows = []
    for count, size in ((methods, images), (methods // 2, images), (methods, images // 4)):
        rng = np.random.default_rng(0)
        world = Images.draw(size, rng, classes=CLASSES)
        with tempfile.TemporaryDirectory() as name:
            for number in range(count):
                write_method(Path(name), number, world, rng)
            found = [compare_all(Path(name)) for _ in range(options.repeats)]
        seconds, memory = (statistics.median(each) for each in zip(*found, strict=True))
        rows.append([count, count * (count - 1) // 2, size, seconds, memory])
    headers = ["methods", "pairs", "images", "processor time, s", "memory, MB"]
    show(f"All pairs, {CLASSES} × {CLASSES}, 1000 resamples", rows, headers, ("", "", "", ".1f", ".0f"))


if __name__ == "__main__":
    main()
