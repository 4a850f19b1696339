"""What an experiment states of geometry and scoring: the evaluation protocol and the training geometry."""

from __future__ import annotations

from uss_bench.protocol import schema1
from uss_bench.protocol.evaluation import (
    SUMMARIES,
    AbsentClasses,
    CrfParams,
    ExtraClusters,
    Matching,
    Protocol,
    default_protocol,
    parse_protocol,
    protocol_fields,
    protocol_names,
    shown,
    split_text,
)
from uss_bench.protocol.schema1 import Converted
from uss_bench.protocol.training import Filter, TrainingGeometry, change_training

__all__ = [
    "SUMMARIES",
    "AbsentClasses",
    "Converted",
    "CrfParams",
    "ExtraClusters",
    "Filter",
    "Matching",
    "Protocol",
    "TrainingGeometry",
    "change_training",
    "default_protocol",
    "get_protocol",
    "protocol_fields",
    "protocol_names",
    "read_protocol",
    "shown",
]


def get_protocol(text: str) -> Protocol:
    """Return the evaluation protocol that `text` names; one of schema 1 is converted.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    return read_protocol(text).protocol


def read_protocol(text: str) -> Converted:
    """Return the protocol that `text` names, and what else a text of schema 1 states.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    name, _ = split_text(text)
    return schema1.convert_text(text) if name in schema1.NAMES else Converted(parse_protocol(text), {}, None)
