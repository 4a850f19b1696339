"""Folders that come with uss-bench: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def bundled_folders(package: str, beside: str) -> list[Path]:
    """Return the folders of a package without Python modules.

    Args:
        package: its name once installed, such as ``uss_bench.claims.data``.
        beside: where it lies in a checkout that was never installed, relative to the checkout.
    """
    found = importlib.util.find_spec(package)
    locations = list((found.submodule_search_locations if found else None) or ())
    return [Path(one) for one in locations] or [Path(__file__).parents[2] / beside]
