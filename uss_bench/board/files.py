"""The folder of boards: which files it holds, writing them, and saying which are out of date."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uss_bench.files.digests import digest_file
from uss_bench.files.owned import OwnedFiles

if TYPE_CHECKING:
    from uss_bench.board.model import Board

_LATEX = "latex/"
BACKBONES = "backbones.html"
_README = """\
# Boards

Made from records and claims by `uss-bench board build`; edit nothing here. [`board.html`](board.html)
says the same and more, and opens from disk: it sorts, filters, and links every row to its records and to
the command that repeats it. As data: [`settings.csv`](settings.csv), a line per configuration, and
[`records.csv`](records.csv), a line per run. For a paper: [`latex/`](latex).

Rows stand in one table only if data, protocol hash and backbone are the same. Scores are percent, of the
last checkpoint, mean ± standard deviation over seeds; the interval is over test images. *Tied with 1st*
cannot be distinguished from the best row by a paired bootstrap in which clusters are matched anew. The
label-selected gap is what choosing the checkpoint by the labels, as most published numbers do, would have
added to the mIoU. A *floor* looks at no feature. In the CSV files a text that a spreadsheet would take for a
formula has an apostrophe in front.
"""


def contents(boards: Sequence[Board], home: Path, backbones: str = "") -> dict[str, bytes]:
    """Return every file of the folder, by its name in it: a function of the boards and of nothing else.

    Args:
        home: the folder itself, which links to records are relative to.
        backbones: the page of backbones; '' where none was measured.
    """
    from uss_bench.board import latex, markdown, page, sheets  # to say that nothing has changed takes none

    texts = {
        **{f"{_LATEX}{board.slug}.tex": latex.render(board) for board in boards},
        **({f"{_LATEX}overview.tex": overview} if (overview := latex.render_overview(boards)) else {}),
        "settings.csv": sheets.configurations(boards),
        "records.csv": sheets.records(boards, home),
        "board.html": page.render(boards, home, backbones=bool(backbones)),
        **({BACKBONES: backbones} if backbones else {}),
        "README.md": f"{_README}\n{markdown.render(boards)}",
    }
    return {name: text.encode() for name, text in texts.items()}


def write(files: Mapping[str, bytes], home: Path) -> None:
    """Write the files, and remove LaTeX tables, or the page of backbones, that no record gives any more.

    Raises:
        UsageError: when one would replace a file that uss-bench did not write.
        DataError: when the folder cannot be written.
    """
    with OwnedFiles(home) as owned:
        owned.write(files)
        owned.remove(_superfluous(files, owned))


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file, in hex digits."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def outdated(wanted: Mapping[str, str], home: Path) -> list[str]:
    """Return the names of files that are missing, hold something else, or should not exist.

    Args:
        wanted: what `digests` gives.
    """
    different = [name for name, digest in wanted.items() if _digest(home / name) != digest]
    return sorted([*different, *_superfluous(wanted, OwnedFiles(home))])


def _superfluous(files: Collection[str], owned: OwnedFiles) -> list[str]:
    return [
        name for name in owned.owned() if (name.startswith(_LATEX) or name == BACKBONES) and name not in files
    ]


def _digest(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:
        return None
