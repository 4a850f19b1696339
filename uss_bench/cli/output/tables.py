"""Tables for a terminal and in Markdown, whose cells are shown as they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from uss_bench.results.collection import Configuration

NOT_YET = "not measured yet"
"""Where a cell of a table waits for records."""
_SIDES = {"l": "left", "r": "right", "c": "center", ".": "decimal"}


def table(
    rows: Iterable[Iterable[object]],
    headers: Sequence[str] = (),
    *,
    align: str = "",
    widths: Sequence[int | None] | None = None,
    markdown: bool = False,
) -> str:
    """Return rows under their headers, or bare columns where there are none.

    Args:
        align: a letter per column: l, r, c, or a dot for decimal points; left by default. One that ends in
            ``*`` goes on with its last letter: ``lr*``.
        widths: of columns whose text is wrapped, in characters; not in Markdown.
    """
    if align.endswith("*"):
        align = align[:-1].ljust(len(headers), align[-2])
    return tabulate(
        rows,
        headers,
        tablefmt="github" if markdown else "simple" if headers else "plain",
        colalign=[_SIDES[letter] for letter in align] or None,
        maxcolwidths=None if markdown else widths,
        disable_numparse=True,
    )


def place(configuration: Configuration) -> str:
    """Return where a configuration was measured: data and backbone, and whether it was left unrefined."""
    cell, refined = configuration.cell, configuration.records[0].protocol.crf is not None
    return f"{cell.dataset.name} · {cell.backbone.name}" + ("" if refined else ", no CRF")


def method_title(name: str, titles: Mapping[str, str]) -> str:
    """Return what people call a method, on whichever backbone it is."""
    return titles.get(name, name).replace("{backbone}", "its backbone")
