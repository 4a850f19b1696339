"""Putting a report into files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.errors import DataError, UsageError
from uss_bench.paths import write_together
from uss_bench.report.content import document
from uss_bench.report.html import to_html
from uss_bench.report.markdown import to_markdown

_HTML, _MARKDOWN = (".html", ".htm"), (".md", ".markdown")


def check_target(target: Path) -> None:
    """Raise `UsageError` if a report cannot be of the format that the suffix asks for."""
    if target.suffix.lower() not in _HTML + _MARKDOWN:
        raise UsageError(
            f"A report is no '{target.suffix or target.name}' file.",
            hint="Use .html for one file with all pictures, or .md with a folder of pictures beside it.",
        )


def write_report(records: Sequence[Path], target: Path) -> list[Path]:
    """Write a report of records as HTML or Markdown, by the suffix of `target`, whole or not at all.

    Returns:
        What was written: the pictures of a Markdown report, and the page last.

    Raises:
        UsageError: for another suffix, or a record that has no scores.
        DataError: when a record cannot be read, or a file cannot be written.
    """
    check_target(target)
    content = document(records)
    pictures: dict[str, bytes] = {}
    folder = target.with_name(f"{target.stem}-pictures")
    if target.suffix.lower() in _HTML:
        page = to_html(content)
    else:
        page, pictures = to_markdown(content, folder.name)
    files = [(folder / name, data) for name, data in pictures.items()]
    files.append((target, page.encode()))
    try:
        for path, _ in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_together(files)
    except OSError as error:
        raise DataError(f"The report cannot be written to {target}: {error.strerror}.") from None
    return [path for path, _ in files]
