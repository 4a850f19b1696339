"""Templates of HTML pages: whatever they are given is escaped, and cannot turn the direction of writing."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from uss_bench.runtime.text import printable


def environment(package: str | None) -> jinja2.Environment:
    """Return the environment of the templates in a package's folder ``assets``."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package or "", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _finalized(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
