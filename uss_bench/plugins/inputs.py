"""Names of a method's inputs. Methods may import this: their code's digest covers what they import."""

from __future__ import annotations

from collections.abc import Iterable


def facets_of(inputs: Iterable[str]) -> list[str]:
    """Return the inputs that come from a backbone: neither ``image`` nor ``aux:NAME``."""
    return [name for name in inputs if name != "image" and not name.startswith("aux:")]
