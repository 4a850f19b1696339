"""Putting a report into files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.errors import UsageError
from uss_bench.files.owned import OwnedFiles

_HTML, _MARKDOWN = (".html", ".htm"), (".md", ".markdown")


def check_target(target: Path) -> None:
    """Raise `UsageError` if no report can be written to this path, before any work."""
    if target.suffix.lower() not in _HTML + _MARKDOWN:
        raise UsageError(
            f"A report cannot be a '{target.suffix or target.name}' file.",
            hint="Use .html for one file with all pictures, or .md with a folder of pictures beside it.",
        )
    OwnedFiles(target.parent).check([target.name])


def write_report(records: Sequence[Path], target: Path) -> list[Path]:
    """Write a report of records as HTML or Markdown, by the suffix of `target`, whole or not at all.

    Returns:
        What was written: the pictures of a Markdown report, and the page last.

    Raises:
        UsageError: for another suffix, a record that has no scores, or a file that would be replaced and is
            not uss-bench's.
        DataError: when a record cannot be read, or a file cannot be written.
    """
    check_target(target)
    from uss_bench.report.content import document
    from uss_bench.report.html import to_html
    from uss_bench.report.markdown import to_markdown

    content = document(records)
    files: dict[str, bytes] = {}
    if target.suffix.lower() in _HTML:
        page = to_html(content)
    else:
        folder = f"{target.stem}-pictures"
        page, pictures = to_markdown(content, folder)
        files = {f"{folder}/{name}": picture for name, picture in pictures.items()}
    files[target.name] = page.encode()
    with OwnedFiles(target.parent) as owned:
        owned.write(files)
    return [target.parent / name for name in files]
