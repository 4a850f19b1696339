"""Parts of Markdown pages that scripts write, between ``<!-- part: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tabulate import tabulate


def regenerated(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """Return the page with every part between its marks made anew."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n{parts[match[2]]()}\n{match[4]}"

    return re.sub(r"(<!-- part: (\w+) -->)\n(.*?)(<!-- end -->)", part, page, flags=re.DOTALL)


def update(path: Path, parts: Mapping[str, Callable[[], str]], script: str) -> int:
    """Write a page's parts anew, or with ``--check`` compare them; return the exit code."""
    before = path.read_text(encoding="utf-8")
    after = regenerated(before, parts)
    if "--check" in sys.argv:
        if before != after:
            print(f"{path.name} is out of date: run python {script}", file=sys.stderr)
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


def table(headers: tuple[str, ...], rows: list[tuple[object, ...]], alignment: str) -> str:
    """Return a Markdown table; `alignment` holds ``l`` or ``r`` per column."""
    sides = {"l": "left", "r": "right"}
    return tabulate(
        rows,
        headers=headers,
        tablefmt="github",
        disable_numparse=True,
        colalign=[sides[one] for one in alignment],
    )
