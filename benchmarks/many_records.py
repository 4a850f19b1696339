"""What many records cost: `board build` the first time, and when nothing has changed; the page in a browser.

::

    python benchmarks/many_records.py [--records 5000] [--small]

The records are planted: ten datasets of 40 images and three classes, four backbones, 25 methods, five
seeds. Processor time and the most memory of a process are those of the whole command. The browser is
measured where playwright and Chromium are installed: time until something is seen, and until all is loaded.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

from measuring import arguments, machine
from tabulate import tabulate

from uss_bench.files.atomic import CACHE_VARIABLE

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from board_records import write_runs

MAIN = """
import sys
from pathlib import Path
from uss_bench.cli import main
try:
    main()
finally:
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    sys.stderr.write(f"{peak}\\n")
"""
"""The command line, and the most memory that it held, in KiB: what the system says of a child that has ended
counts the memory of its parent."""
SETTLED = 2.5
"""Seconds after which a file that changed counts as settled, so that its status may be remembered."""


def plant(folder: Path, number: int) -> None:
    """Write `number` records."""
    cells = product(range(10), range(4), range(25), range(5))
    for dataset, backbone, method, seed in islice(cells, number):
        write_runs(
            folder,
            f"method{method:02d}",
            0.3 + 0.02 * method,
            seeds=[seed],
            dataset=f"data{dataset}",
            fingerprint=f"f{dataset}",
            backbone=f"vit{backbone}",
            sha256=f"s{backbone}",
        )


def spent(*words: object) -> tuple[float, float]:
    """Return processor seconds and peak MB of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", MAIN, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stderr.split()[-1]) * 1024 / 1e6


def page_seconds(page: Path, width: int) -> tuple[float, float] | None:
    """Return seconds until a browser shows something of a page, and until all is loaded; None without one."""
    try:
        sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    except ImportError:
        return None
    with sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        path = own if own.exists() else shutil.which("chromium")
        if path is None:
            return None
        browser = driver.chromium.launch(executable_path=path)
        opened = browser.new_page(viewport={"width": width, "height": 900})
        opened.goto(page.as_uri())
        first, loaded = opened.evaluate(
            "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
            " performance.getEntriesByType('navigation')[0].loadEventEnd]"
        )
        browser.close()
    return first / 1e3, loaded / 1e3


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--records", type=int, default=5000, help="how many")
    options = parser.parse_args()
    number = 20 if options.small else options.records
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ[CACHE_VARIABLE] = str(home / "cache")
        plant(home / "records", number)
        time.sleep(SETTLED)
        build = ("board", "build", "--records", home / "records", "--out", home / "boards")
        names = ("first build", "nothing changed")
        rows: list[tuple[object, ...]] = [(name, *spent(*build)) for name in names]
        for width in (1400, 400):
            seen = page_seconds(home / "boards" / "board.html", width)
            if seen is not None:
                rows += [(f"page, {width} px, first sight", seen[0]), (f"page, {width} px, loaded", seen[1])]
        size = (home / "boards" / "board.html").stat().st_size / 1e6
    print(f"{number} records, page of {size:.1f} MB, {machine()}\n")
    print(tabulate(rows, headers=["", "s", "most memory, MB"], floatfmt=("", ".2f", ".0f")))


if __name__ == "__main__":
    main()
