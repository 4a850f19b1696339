"""Diagnoses that methods offer: what parameters and training do to unlabeled patches, shown without labels.

A method's ``spec.toml`` names a function of its folder, which ``uss-bench diagnose METHOD`` calls::

    [diagnosis]
    entry = "diagnosis:shifts"
    summary = "which pairs of patches the loss pulls together"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from uss_bench.contracts import Features, Method
from uss_bench.errors import ContractError, UsageError, blame
from uss_bench.experiment.restoring import restore
from uss_bench.experiment.setup import Setup
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record, record_path
from uss_bench.training.clock import Clock
from uss_bench.training.monitoring import sample_indices
from uss_bench.training.source import TrainingSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a diagnosis looks at: unlabeled training items, and the trained method where a record has it."""

    params: Mapping[str, Any]
    """Every parameter of the method."""
    features: Features
    """The inputs that the method's spec names, of the training items."""
    sample: Sequence[int]
    """Some training items, evenly spaced over the split."""
    trained: Method | None
    """The method as a run with these very options left it; None where no record of one was found."""


class Diagnosis(Protocol):
    """The function that a spec names."""

    def __call__(self, subject: Subject) -> tuple[str, Figure | None]:
        """Return what to print, and a figure to save."""
        ...


def diagnose(
    setup: Setup, registry: Registry, *, seed: int, out: Path, device: torch.device
) -> tuple[str, Figure | None]:
    """Run the diagnosis of a setup's method on its training items.

    Args:
        seed: of the run to look for.
        out: the results folder to look in.

    Raises:
        UsageError: when the method offers none.
        ContractError: when it fails, or returns something else than a text and a figure or None.
    """
    spec = setup.spec
    if spec.diagnosis is None:
        offering = [one.name for one in registry.all("methods") if getattr(one.spec, "diagnosis", None)]
        known = f"These do: {', '.join(offering)}." if offering else "No installed method does."
        raise UsageError(f"Method '{spec.name}' offers no diagnosis.", hint=known)
    function: Diagnosis = setup.plugin.load(spec.diagnosis.entry)
    store = setup.open_store(device)
    items = setup.training_items()
    path = record_path(out, setup.cell(seed))
    trained = None
    if path.exists():
        trained = restore(path, read_record(path), setup, registry, device).method
    subject = Subject(
        params=setup.params,
        features=TrainingSource(items, store, Clock()).open(spec.inputs, build=True),
        sample=sample_indices(len(items)),
        trained=trained,
    )
    who = f"Method '{spec.name}'"
    with blame(who, "its diagnosis"), torch.no_grad():
        found = function(subject)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], str):
        raise ContractError(f"{who} gave a {type(found).__name__} as its diagnosis, not a text and a figure.")
    return found
