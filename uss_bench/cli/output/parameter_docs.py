"""What the source says about parameters, for pages: docstrings of attributes, and the Args of a docstring."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from typing import Any

_ARGUMENT = re.compile(r"    (\w+): (.*)")


def parameter_docs(entry: Any) -> dict[str, str]:
    """Return what is known of each parameter of a class or function, on one line each.

    Attributes are documented by the string after them, since dataclasses keep no docs; other parameters
    under ``Args:`` of the docstring. Markup is removed.
    """
    return {name: text.replace("``", "").replace("`", "") for name, text in _documented(entry).items()}


def _documented(entry: Any) -> dict[str, str]:
    docs: dict[str, str] = {}
    for one in reversed(getattr(entry, "__mro__", (entry,))):
        docs |= {**_arguments(inspect.getdoc(one) or ""), **_attributes(one)}
    return docs


def _arguments(docstring: str) -> dict[str, str]:
    """Read the section ``Args:`` of a docstring."""
    docs: dict[str, str] = {}
    name = ""
    _, _, section = docstring.partition("\nArgs:\n")
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break
        found = _ARGUMENT.fullmatch(line)
        if found:
            name = found[1]
            docs[name] = found[2]
        elif name and line.strip():
            docs[name] += f" {line.strip()}"
    return docs


def _attributes(entry: Any) -> dict[str, str]:
    """Read the string after each annotated attribute of a class body."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(entry))).body
    except (OSError, TypeError, ValueError):
        return {}
    docs: dict[str, str] = {}
    for statement, following in itertools.pairwise(getattr(body, "body", [])):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs
