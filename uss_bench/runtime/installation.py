"""Installed libraries that cannot be imported: which one is at fault, and what to install."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from uss_bench.errors import RunError
from uss_bench.runtime.text import first_line

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "cv2": "opencv-python",
}
"""Where the name to install is not the name to import."""


def import_fault(error: BaseException) -> RunError | None:
    """Return the error that names the library whose import raised `error`, itself or as the cause of another.

    None when no import failed, or when the fault is a plugin's or uss-bench's own.
    """
    seen: BaseException | None = error
    while seen is not None:
        if (name := _failed_import(seen)) is not None:
            missing = isinstance(seen, ModuleNotFoundError) and seen.name == name
            reason = "it is not installed" if missing else f"{type(seen).__name__}: {first_line(str(seen))}"
            return RunError(f"The library {name} cannot be imported: {reason}.", hint=install_advice(name))
        seen = seen.__cause__ or seen.__context__
    return None


def install_advice(name: str) -> str:
    """Return what to install so that the library with this import name works."""
    distribution = _DISTRIBUTIONS.get(name, name)
    if name == "torchvision" and (wanted := _torchvision_for(_version("torch"))):
        return (
            f"Install the one that was made for torch {_version('torch')}, from the same index: "
            f"pip install 'torchvision=={wanted}.*'"
        )
    declared = next((one for one in requirements("uss-bench") if one.name == distribution), distribution)
    again = "--force-reinstall " if _version(distribution) else ""
    return f"pip install {again}'{declared}'"


def requirements(distribution: str) -> Iterator[Requirement]:
    """Yield what a distribution declares to need on this platform, without its extras and their markers."""
    try:
        declared = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            yield requirement


def unmet(name: str) -> str:
    """Return what a library declares to need and does not find: ``torch==2.9.0, and 2.10.0 is installed``."""
    for needed in requirements(_DISTRIBUTIONS.get(name, name)):
        found = _version(needed.name)
        if found and not needed.specifier.contains(found, prereleases=True):
            return f"{needed.name}{needed.specifier}, and {found} is installed"
    return ""


def import_matplotlib() -> None:
    """Import matplotlib whatever ``MPLBACKEND`` names: a backend that is not installed would end the import.

    Figures are drawn by Agg. A backend that matplotlib accepts stays the one of `pyplot`, as in a notebook.
    """
    if "matplotlib" in sys.modules:
        return
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
    if chosen:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = chosen


def _failed_import(error: BaseException) -> str | None:
    """Return the library at fault when `error` was raised by an import; None if it was not."""
    importing = [
        str(frame.f_globals.get("__name__", "")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
    ]
    named = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    needed = {one.name: one for one in requirements("uss-bench")}.get(_DISTRIBUTIONS.get(named, named))
    if isinstance(error, ModuleNotFoundError) and error.name == named and (needed or named == "torchvision"):
        return named
    if importing and not importing[-1].startswith(("uss_bench", "__main__")):
        return importing[-1]
    # A name that a module of ours or a plugin imports: of a library that is too old, or its own mistake.
    return (
        named if needed and not needed.specifier.contains(_version(needed.name), prereleases=True) else None
    )


def _torchvision_for(torch: str) -> str:
    """Return the torchvision that belongs to a torch: 0.15 to 2.0, and so on; '' where that is not known."""
    if not torch or Version(torch).major != 2:
        return ""
    return f"0.{Version(torch).minor + 15}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(canonicalize_name(distribution))
    except metadata.PackageNotFoundError:
        return ""
