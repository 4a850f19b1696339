"""Draw the figures of docs/plots.md by the commands that stand above them; with ``--check`` only compare.

A figure is out of date when it has another size, or looks different: more than `CHANGED` of its pixels differ
visibly. Another version of matplotlib moves single pixels of letters. The embedding needs trained states,
which are not committed, and is left alone.
"""

from __future__ import annotations

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
    """Yield the words of each command without its --out, and the picture that it makes."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, image in re.findall(r"^    (uss-bench .+)\n\n!\[.*?\]\((.+?)\)$", text, flags=re.MULTILINE):
        words = shlex.split(command)[1:]
        where = next(index for index, word in enumerate(words) if word in ("--out", "--plot"))
        option, _ = words[where], words.pop(where + 1)
        if "results" not in words:  # what takes trained states
            yield [*words[:where], "--records", RECORDS, *words[where + 1 :], option], PAGE.parent / image


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
    for words, image in figures():
        with TemporaryDirectory() as folder:
            drawn = Path(folder) / image.name
            command = [sys.executable, "-m", "uss_bench", *words, str(drawn), "--quiet"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            if "--check" not in sys.argv:
                image.write_bytes(drawn.read_bytes())
            elif differs(image, drawn):
                outdated.append(image.relative_to(ROOT))
    for path in outdated:
        print(f"{path} is out of date: run python docs/figures.py", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
