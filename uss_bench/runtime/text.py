"""Text from elsewhere that people will see: in a terminal, which some characters steer, or in a table."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

_STEERING = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
"""Control characters but for tab and new line, and those that turn the direction of writing."""
_COLORS = re.compile(f"(\x1b\\[(?:[012]|3[1-6])m)|{_STEERING}")
"""The colors that this program prints in, and everything else that steers."""
_MOVES = re.compile("(?:[\r\n]|\x1b\\[(?:\\d*A|J))*")
"""How bars and the view of a plan go back to what they draw again, in writes of their own."""
_FORMULA = re.compile("(^[\ufeff ]*|(?<=.)[;\t][\ufeff ]*)(?=[=+@\t\r\n\uff0b\uff0d\uff1d\uff20-])")
"""Where a spreadsheet would begin a formula: in front, and behind what separates cells in some countries."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def printable(text: str) -> str:
    """Return `text` with what would steer a terminal written out, as in ``\\u001b[2J``."""
    return re.sub(_STEERING, _written_out, text)


def _written_out(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


@contextlib.contextmanager
def printing_safely() -> Iterator[None]:
    """Write out what would steer a terminal in everything printed in this block, whatever it came from.

    Records, plugins, file names and messages of libraries all end on standard output or standard error, so
    this is the one place where they are made safe. Colors of `click.style` pass.
    """
    with contextlib.redirect_stdout(_Safe(sys.stdout)), contextlib.redirect_stderr(_Safe(sys.stderr)):
        yield


class _Safe(io.TextIOBase):
    """A text stream in front of another; it has no `buffer`, around which click would write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.isatty, self.fileno, self.flush = stream.isatty, stream.fileno, stream.flush  # type: ignore[method-assign]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        start = text if _MOVES.fullmatch(text) else "\r" * text.startswith("\r")  # with which a bar begins
        safe = start + _COLORS.sub(lambda found: found[1] or _written_out(found), text[len(start) :])
        try:
            self._stream.write(safe)
        except UnicodeEncodeError:  # a locale without UTF-8
            self._stream.write(safe.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV in which no text is a formula to a spreadsheet: such text gets a ``'`` in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    safe = value if _NUMBER.fullmatch(value) else _FORMULA.sub(r"\1'", value)
    return printable(safe)


def why_no_text(name: str) -> str:
    """Return what to do about a name, of a file or in a command, that is not the text it was; '' if it is."""
    if name.isascii():
        return ""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        return f"The locale's encoding is {encoding}, and names are UTF-8: set PYTHONUTF8=1."
    try:
        name.encode()
    except UnicodeEncodeError:
        return "It is not UTF-8: rename the file or folder."
    return ""


def first_line(text: str) -> str:
    return text.partition("\n")[0]


def in_markdown(words: str) -> str:
    """Return `words` so that Markdown shows them as they are, on one line."""
    one_line = " ".join(printable(words).split())
    marked = "".join(f"\\{sign}" if sign in "\\`*_[]|~#" else sign for sign in one_line)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
