"""A report as Markdown, with its pictures as PNG files in a folder beside it."""

from __future__ import annotations

import re

from tabulate import tabulate

from uss_bench.plots.style import render
from uss_bench.report.document import Block, Code, Document, Picture, Text
from uss_bench.runtime.text import in_markdown, printable


def to_markdown(document: Document, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return the page, and its pictures by file name; the page expects them in `folder`."""
    parts = [f"# {in_markdown(document.title)}"]
    pictures: dict[str, bytes] = {}
    for section in document.sections:
        parts.append(f"{'#' * section.level} {in_markdown(section.title)}")
        for block in section.blocks:
            if isinstance(block, Picture):
                content = block.content if isinstance(block.content, bytes) else render(block.content, "png")
                pictures[_file_name(block)] = content
            parts.append(_block(block, folder))
    return "\n\n".join(parts) + "\n", pictures


def _block(block: Block, folder: str) -> str:
    if isinstance(block, Text):
        return in_markdown(block.text)
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        return f"{fence}sh\n{printable(block.text)}\n{fence}"
    caption = in_markdown(block.caption)
    if isinstance(block, Picture):
        return f"![{caption}](<{folder}/{_file_name(block)}>)\n\n*{caption}*"
    sides = ["left" if index < block.labels else "right" for index in range(len(block.headers))]
    headers, *rows = ([*map(in_markdown, cells)] for cells in (block.headers, *block.rows))
    table = tabulate(rows, headers, tablefmt="pipe", colalign=sides, disable_numparse=True)
    return f"{table}\n\n{caption}" if caption else table


def _file_name(picture: Picture) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", picture.name) + ".png"
