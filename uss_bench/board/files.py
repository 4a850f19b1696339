"""The folder of boards: which files it holds, writing them, and telling whether they are current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from uss_bench.board import latex, markdown, page, sheets
from uss_bench.board.model import Board
from uss_bench.errors import DataError
from uss_bench.paths import atomic_write

_LATEX = "latex"
_README = """\
# Boards

Made from records and claims by `uss-bench board build`, and edited by nobody. [`board.html`](board.html)
says the same and more, and is to be opened from disk: it sorts, filters, and links every row to its records
and to the command that repeats it. As data: [`settings.csv`](settings.csv), a line per setting, and
[`records.csv`](records.csv), a line per run. For a paper: [`latex/`](latex).

Rows stand in one table only if data, protocol hash and backbone are the same. Scores are percent, of the
last checkpoint, mean ± standard deviation over seeds; the interval is over test images. *Tied with 1st*
cannot be told from the best row by a paired bootstrap in which clusters are matched anew. The
label-selected gap is what choosing the checkpoint by the labels, as most published numbers do, would have
added to the mIoU. A *floor* looks at no feature.
"""


def contents(boards: Sequence[Board], home: Path) -> dict[str, bytes]:
    """Return every file of the folder, by its name in it: a function of the boards and of nothing else.

    Args:
        home: the folder itself, which links to records are relative to.
    """
    texts = {
        "README.md": f"{_README}\n{markdown.render(boards)}",
        "board.html": page.render(boards, home),
        "settings.csv": sheets.settings(boards),
        "records.csv": sheets.records(boards, home),
        **{f"{_LATEX}/{board.slug}.tex": latex.render(board) for board in boards},
    }
    return {name: text.encode() for name, text in texts.items()}


def write(files: Mapping[str, bytes], home: Path) -> None:
    """Write the files, and remove the LaTeX tables of boards that are no more.

    Raises:
        DataError: when the folder cannot be written.
    """
    try:
        for name, content in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)
        for name in _superfluous(files, home):
            (home / name).unlink()
    except OSError as error:
        raise DataError(f"The boards cannot be written to {home}: {error.strerror}.") from None


def outdated(files: Mapping[str, bytes], home: Path) -> list[str]:
    """Return the names of files that are missing, hold something else, or should not be there."""
    different = [name for name, content in files.items() if _read(home / name) != content]
    return sorted([*different, *_superfluous(files, home)])


def _superfluous(files: Mapping[str, bytes], home: Path) -> list[str]:
    found = {f"{_LATEX}/{path.name}" for path in (home / _LATEX).glob("*.tex")}
    return sorted(found - set(files))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
