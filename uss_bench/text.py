"""Text from elsewhere that people will see in a terminal, where some characters steer it."""

from __future__ import annotations

import re
from typing import Any

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and new line, and those that turn the direction of writing."""


def printable(text: str) -> str:
    """Return `text` with what would steer a terminal written out, as in ``\\u001b[2J``."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def steering_at(value: Any, place: str = "$") -> str | None:
    """Return where in lists and dictionaries a string would steer a terminal; None where none does."""
    if isinstance(value, str):
        return place if _STEERING.search(value) else None
    if isinstance(value, dict):
        inner = [(key, f"{place}.{printable(str(key))}") for key in value]
        named = next((where for key, where in inner if isinstance(key, str) and _STEERING.search(key)), None)
        return named or next(filter(None, (steering_at(value[key], where) for key, where in inner)), None)
    if isinstance(value, (list, tuple)):
        return next(filter(None, (steering_at(one, f"{place}[{i}]") for i, one in enumerate(value))), None)
    return None


def first_line(text: str) -> str:
    return text.partition("\n")[0]


def in_markdown(words: str) -> str:
    """Return `words` so that Markdown shows them as they are, on one line."""
    one_line = " ".join(words.split())
    marked = "".join(f"\\{sign}" if sign in "\\`*_[]|~#" else sign for sign in one_line)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
