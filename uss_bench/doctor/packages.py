"""Whether Python and the libraries are those that uss-bench needs, and whether they can be imported."""

from __future__ import annotations

import importlib
import io
import os
import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from uss_bench.doctor.finding import DoctorFinding, State
from uss_bench.runtime.installation import import_fault, import_matplotlib, install_advice, unmet

_LIBRARIES = ("numpy", "scipy", "pandas", "PIL", "torch", "torchvision", "timm", "numba", "safetensors")


def check_python() -> Iterator[DoctorFinding]:
    """Hold the interpreter against the version that the installed package requires."""
    required = metadata.metadata("uss-bench")["Requires-Python"]
    version = platform.python_version()
    fits = SpecifierSet(required).contains(version, prereleases=True)
    advice = "" if fits else "Make an environment with another Python, and install uss-bench there."
    yield DoctorFinding("python", "ok" if fits else "problem", f"{version}, {required} is needed", advice)


def check_packages() -> Iterator[DoctorFinding]:
    """Hold every dependency against its declared minimum; extras may be missing."""
    fine = 0
    for text in metadata.requires("uss-bench") or []:
        requirement = Requirement(text)
        extra = _extra(requirement)
        if extra not in ("", "crf", "plots"):
            continue  # what developers need
        needed = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            command = f"pip install 'uss-bench[{extra}]'" if extra else f"pip install '{needed}'"
            used = {"crf": "only for --crf pydensecrf", "plots": "only for plot embedding"}.get(extra)
            state: State = "note" if extra else "problem"
            yield DoctorFinding(
                requirement.name, state, f"not installed{f', {used}' if used else ''}", command
            )
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fine += 1
        else:
            advice = f"pip install '{needed}'"
            yield DoctorFinding(requirement.name, "problem", f"{version}, and {needed} is needed", advice)
    yield DoctorFinding("packages", "ok", f"{fine} at or above their declared minimum")


def _extra(requirement: Requirement) -> str:
    """Return the extra that a requirement belongs to, or nothing."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    known = metadata.metadata("uss-bench").get_all("Provides-Extra") or []
    return next((one for one in known if requirement.marker.evaluate({"extra": one})), "another platform's")


def check_libraries() -> Iterator[DoctorFinding]:
    """Import the libraries that are compiled, and hold them against what each of them needs."""
    fine = []
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception as error:
            fault = import_fault(error)
            what = fault.what if fault is not None else f"{type(error).__name__}: {error}"
            yield DoctorFinding(name, "problem", what, (fault and fault.hint) or install_advice(name))
            continue
        if wrong := unmet(name):
            yield DoctorFinding(name, "problem", f"it needs {wrong}", install_advice(name))
        else:
            fine.append(name)
    yield DoctorFinding("libraries", "ok", f"{', '.join(fine)} can be imported")


def check_plots() -> Iterator[DoctorFinding]:
    """Draw a figure as `uss_bench.plots` does, whatever ``MPLBACKEND`` names."""
    try:
        import_matplotlib()
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(1, 1))
        FigureCanvasAgg(drawn)
        drawn.subplots().plot([0, 1])
        drawn.savefig(io.BytesIO(), format="png")
    except Exception as error:
        fault = import_fault(error)
        what = fault.what if fault is not None else f"matplotlib cannot draw: {type(error).__name__}: {error}"
        yield DoctorFinding("plots", "problem", what, (fault and fault.hint) or install_advice("matplotlib"))
        return
    chosen = os.environ.get("MPLBACKEND")
    ignored = f"; MPLBACKEND={chosen} is not used" if chosen else ""
    yield DoctorFinding("plots", "ok", f"matplotlib drew a figure with Agg{ignored}")


def check_notebooks() -> Iterator[DoctorFinding]:
    """Look for the kernel in which a notebook of this environment runs."""
    try:
        version = metadata.version("ipykernel")
    except metadata.PackageNotFoundError:
        advice = (
            "Nothing, unless you want to work in notebooks: then pip install jupyterlab in this environment."
        )
        yield DoctorFinding("notebooks", "note", "no ipykernel here", advice)
        return
    yield DoctorFinding("notebooks", "ok", f"ipykernel {version}")


def check_hub() -> Iterator[DoctorFinding]:
    """Say where weights from the hub lie and whether they may be downloaded; nothing is asked of it."""
    from huggingface_hub import constants

    place = constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        advice = "Unset HF_HUB_OFFLINE to download weights, or give their file with --weights."
        yield DoctorFinding("hub", "note", f"offline by HF_HUB_OFFLINE; only what lies in {place}", advice)
        return
    yield DoctorFinding("hub", "ok", f"weights are downloaded when they are first used, to {place}")
