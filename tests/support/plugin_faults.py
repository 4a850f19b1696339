"""Plugins with one fault each, to see that a check finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from uss_bench.kit.checks import Finding, run_checks
from uss_bench.kit.method_checks import METHOD_CHECKS
from uss_bench.kit.scaffold import write_plugin
from uss_bench.kit.trial import Trial
from uss_bench.plugins.registry import Registry

CPU = torch.device("cpu")


class Fault(NamedTuple):
    """A change of a plugin's code that breaks it, and what a check should find."""

    check: str
    old: str
    new: str
    text: str
    file: str = "subject.py"

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


def subject_with(parent: Path, what: Any, *faults: Fault) -> Path:
    """Write the plugin 'subject', as ``uss-bench new`` does, with faults; return its folder."""
    folder = write_plugin(what, "subject", parent, Registry())[0]
    for fault in faults:
        path = folder / fault.file
        text = path.read_text()
        assert fault.old in text, fault.old
        path.write_text(text.replace(fault.old, fault.new, 1))
    return folder


def examine(folder: Path, *names: str, backbone: str = "patchstats") -> dict[str, Finding]:
    """Return what some checks of the method 'subject' find; the CPU stands in for a GPU."""
    registry = Registry([folder])
    with Trial(registry.find("methods", "subject"), registry, backbone=backbone, accelerator=CPU) as trial:
        return {
            one.check: one for one in run_checks(trial, [one for one in METHOD_CHECKS if one.name in names])
        }
