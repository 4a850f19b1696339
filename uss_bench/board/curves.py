"""Sensitivity: the settings of a table that are alike but for the value of one number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from uss_bench.board.model import Curve, Row


def curves(rows: Sequence[Row]) -> tuple[Curve, ...]:
    """Return a curve per method and numeric parameter of which a table has two or more values.

    Settings on one curve are alike in everything else; where a sweep was made at several values of
    another parameter, each gives a curve of its own.
    """
    groups: dict[tuple[str, str, str], dict[float, Row]] = {}
    for row in rows:
        for name, value in row.params.items():
            if not _is_number(value):
                continue
            others = {key: row.params[key] for key in sorted(row.params) if key != name}
            rest = json.dumps([others, row.runs[0].code, row.alpha, row.feature_dtype])
            groups.setdefault((row.method, name, rest), {})[float(value)] = row
    return tuple(
        Curve(method, name, tuple(sorted(found)), tuple(found[value] for value in sorted(found)))
        for (method, name, _), found in sorted(groups.items(), key=lambda item: item[0])
        if len(found) > 1
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
