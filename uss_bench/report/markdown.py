"""A report as Markdown, with its pictures as PNG files in a folder beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from uss_bench.plots.style import render
from uss_bench.report.document import Block, Code, Document, Picture, Table, Text


def to_markdown(document: Document, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return the page, and its pictures by file name; the page expects them in `folder`."""
    parts = [f"# {_escape(document.title)}"]
    pictures: dict[str, bytes] = {}
    for section in document.sections:
        parts.append(f"{'#' * section.level} {_escape(section.title)}")
        for block in section.blocks:
            if isinstance(block, Picture):
                content = block.content if isinstance(block.content, bytes) else render(block.content, "png")
                pictures[f"{_file_name(block.name)}.png"] = content
            parts.append(_block(block, folder))
    return "\n\n".join(parts) + "\n", pictures


def _block(block: Block, folder: str) -> str:
    if isinstance(block, Text):
        return _escape(block.text)
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
        return f"{fence}sh\n{block.text}\n{fence}"
    if isinstance(block, Picture):
        caption = _escape(block.caption)
        return f"![{caption}](<{folder}/{_file_name(block.name)}.png>)\n\n*{caption}*"
    return _table(block)


def _table(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_escape(cell) for cell in cells)} |"

    rule = "".join("|---" if index < table.labels else "|--:" for index in range(len(table.headers)))
    lines = [row(table.headers), f"{rule}|", *(row(cells) for cells in table.rows)]
    return "\n".join(lines) + (f"\n\n{_escape(table.caption)}" if table.caption else "")


def _escape(text: str) -> str:
    """Return text that Markdown, and the HTML that it lets through, shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
