"""Draw the figures of docs/plots.md by the commands that stand above them; with ``--check`` only compare.

A figure is out of date when it has another size, or looks different: more than `CHANGED` of its pixels differ
visibly. Another version of matplotlib moves single pixels of letters. The embedding needs trained states,
which are not committed: its runs are made anew, and ``--check`` leaves it out.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "plots.md"
RECORDS = "leaderboards/records"
CHANGED = 0.05
_VISIBLE = 48
"""Of 255: how much a channel of a pixel must differ."""


def figures() -> Iterator[tuple[list[str], Path]]:
    """Yield the words of each command without its --out, and the picture it makes of committed records."""
    for (*runs, command), image in _shown():
        words, option = _without_place(command)
        if not runs:
            yield [*words, "--records", RECORDS, option], image


def figures_of_states(folder: Path) -> Iterator[tuple[list[str], Path]]:
    """Make the runs that stand above a figure, into `folder`, and yield as `figures` does."""
    for (*runs, command), image in _shown():
        for run in runs:
            _uss_bench([*_without_place(run)[0], "--out", str(folder)])
        words, option = _without_place(command)
        if runs:
            yield [*(str(folder) if word == "results" else word for word in words), option], image


def _shown() -> Iterator[tuple[list[str], Path]]:
    """Yield the commands above each picture of the page, and the picture."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    for block, image in re.findall(
        r"((?:^    uss-bench .+\n)+)\n!\[.*?\]\((.+?)\)$", text, flags=re.MULTILINE
    ):
        yield block.splitlines(), PAGE.parent / image


def _without_place(command: str) -> tuple[list[str], str]:
    """Return the words of a command but for where it writes, and the option that says so."""
    words = shlex.split(command)[1:]
    where = next(index for index, word in enumerate(words) if word in ("--out", "--plot"))
    return words[:where] + words[where + 2 :], words[where]


def _uss_bench(words: list[str]) -> None:
    command = [sys.executable, "-m", "uss_bench", *words, "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def differs(old: Path, new: Path) -> bool:
    """Whether two pictures look different."""
    if not old.exists():
        return True
    with Image.open(old) as before, Image.open(new) as after:
        if before.size != after.size:
            return True
        left, right = (np.asarray(one.convert("RGB")).astype(int) for one in (before, after))
    return bool((np.abs(left - right).max(axis=2) > _VISIBLE).mean() > CHANGED)


def main() -> int:
    outdated = []
    check = "--check" in sys.argv
    with TemporaryDirectory() as name:
        folder = Path(name)
        for words, image in itertools.chain(
            figures(), [] if check else figures_of_states(folder / "results")
        ):
            drawn = folder / image.name
            _uss_bench([*words, str(drawn)])
            if not check:
                image.write_bytes(drawn.read_bytes())
            elif differs(image, drawn):
                outdated.append(image.relative_to(ROOT))
    for path in outdated:
        print(f"{path} is out of date: run python docs/figures.py", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
