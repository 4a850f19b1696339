"""What a report consists of, before it is HTML or Markdown: plain text that the writers escape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be copied as they are."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Table:
    kind: ClassVar = "table"
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    labels: int = 1
    """Columns, from the left, that hold words; the others hold numbers and are set flush right."""


@dataclass(frozen=True)
class Picture:
    kind: ClassVar = "picture"
    name: str
    """Of its file, without a suffix."""
    content: Figure | bytes
    """A figure, or a finished PNG."""
    caption: str


Block = Text | Code | Table | Picture


@dataclass
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2


@dataclass(frozen=True)
class Document:
    title: str
    sections: Sequence[Section]
