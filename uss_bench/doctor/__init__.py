"""Whether everything that uss-bench needs works on this machine, and what to do where it does not.

Every check does what a run does: it writes a file, refines an image, multiplies a matrix on the GPU. A check
that raises an error is itself a finding.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uss_bench.doctor.finding import DoctorFinding
from uss_bench.doctor.folders import check_folders
from uss_bench.doctor.packages import (
    check_hub,
    check_libraries,
    check_notebooks,
    check_packages,
    check_plots,
    check_python,
)
from uss_bench.doctor.slurm import check_slurm
from uss_bench.runtime.cores import usable_cores
from uss_bench.runtime.formatting import byte_size
from uss_bench.runtime.installation import import_fault
from uss_bench.runtime.text import first_line


def examine(out: Path) -> Iterator[DoctorFinding]:
    """Run all checks and yield what they find, one after the other.

    Args:
        out: the folder for results; it need not exist.
    """
    checks: list[tuple[str, Callable[[], Iterator[DoctorFinding]]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("libraries", check_libraries),
        ("plots", check_plots),
        ("notebooks", check_notebooks),
        ("hub", check_hub),
        ("compiler", check_compiler),
        ("CRF", check_crf),
        ("GPU", check_gpu),
        ("disk", lambda: check_folders(out)),
        ("SLURM", check_slurm),
        ("encoding", check_encoding),
        ("threads", check_threads),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            fault = import_fault(error)
            what = fault.what if fault is not None else first_line(f"{type(error).__name__}: {error}")
            advice = "Install uss-bench again, into a fresh environment."
            yield DoctorFinding(name, "problem", what, (fault and fault.hint) or advice)


def check_compiler() -> Iterator[DoctorFinding]:
    """Look for a C++ compiler, which only building pydensecrf needs."""
    names = [*filter(None, [os.environ.get("CXX")]), "c++", "g++", "clang++", "cl"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        yield DoctorFinding("compiler", "ok", f"{found} (needed to build pydensecrf only)")
        return
    advice = "Nothing, unless you want --crf pydensecrf: then install g++ or clang++."
    yield DoctorFinding("compiler", "note", "no C++ compiler; the built-in CRF needs none", advice)


def check_crf() -> Iterator[DoctorFinding]:
    """Refine a tiny image with the built-in engine, and with pydensecrf where it is installed."""
    import numpy as np

    from uss_bench.crf import refine

    image, logits = _scene()
    refined = refine(image, logits)
    sums = refined.sum(axis=0)
    if not np.isfinite(refined).all() or abs(sums - 1).max() > 1e-4:
        advice = "Reinstall numba and NumPy; set NUMBA_CACHE_DIR to an empty folder."
        yield DoctorFinding("CRF, lattice", "problem", "its probabilities do not sum to one", advice)
        return
    yield DoctorFinding("CRF, lattice", "ok", "compiled, and refined an image")
    try:
        importlib.import_module("pydensecrf.densecrf")
    except ModuleNotFoundError:
        return  # told among the packages
    reference = refine(image, logits, engine="pydensecrf")
    differing = int((reference.argmax(axis=0) != refined.argmax(axis=0)).sum())
    found = f"{differing} of {refined[0].size} pixels have another label than the lattice gives"
    advice = "Do not mix engines; please report the versions." if differing else ""
    yield DoctorFinding("CRF, pydensecrf", "problem" if differing else "ok", found, advice)


def _scene() -> tuple[Any, Any]:
    """Return an image uint8 (24, 32, 3) of two halves, and noisy logits float32 (3, 24, 32) of them."""
    import numpy as np

    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(32)[None] >= 16, 24, axis=0).astype(int)
    image = np.clip(80 + 90 * label[..., None] + rng.normal(0, 8, (24, 32, 3)), 0, 255).astype(np.uint8)
    logits = 2 * np.eye(3)[label].transpose(2, 0, 1) + rng.normal(0, 1, (3, 24, 32))
    return image, logits.astype(np.float32)


def check_gpu() -> Iterator[DoctorFinding]:
    """Multiply matrices on the GPU, if there is one."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            advice = "Install the torch build that fits your driver: https://pytorch.org/get-started"
            found = f"torch {torch.__version__} (built for {built}) cannot use the GPU of this machine"
            yield DoctorFinding("GPU", "note", found, advice)
            return
        yield DoctorFinding("GPU", "note", "no GPU: everything runs on the CPU, more slowly")
        return
    name = torch.cuda.get_device_name()
    try:
        square = torch.eye(64, device="cuda")
        exact = bool(torch.equal(square @ square, square))
        free, total = torch.cuda.mem_get_info()
    except RuntimeError as error:
        found = f"{name} cannot be used: {str(error).splitlines()[0]}"
        advice = "Use --device cpu, or install the torch build that fits GPU and driver."
        yield DoctorFinding("GPU", "problem", found, advice)
        return
    if not exact:
        yield DoctorFinding(
            "GPU", "problem", f"{name} multiplies wrongly", "Use --device cpu; suspect the driver."
        )
        return
    found = f"{name}, {byte_size(free)} of {byte_size(total)} free"
    advice = "Other processes hold its memory: nvidia-smi shows them." if free < 0.2 * total else ""
    yield DoctorFinding("GPU", "note" if advice else "ok", found, advice)


def check_encoding() -> Iterator[DoctorFinding]:
    """Ask for UTF-8 where text is printed and where files are named."""
    advice = "Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8."
    output = (sys.stdout.encoding or "none").lower().replace("_", "-")
    names = sys.getfilesystemencoding().lower()
    if output not in ("utf-8", "utf8"):
        yield DoctorFinding(
            "encoding", "problem", f"tables cannot be printed: the output is {output}", advice
        )
    if names != "utf-8":
        yield DoctorFinding("encoding", "problem", f"names of files may be lost: they are {names}", advice)
    if output in ("utf-8", "utf8") and names == "utf-8":
        yield DoctorFinding("encoding", "ok", "UTF-8 for output and for names of files")


def check_threads() -> Iterator[DoctorFinding]:
    """Compare the threads that torch takes with the cores that this process may use."""
    import torch

    cores, threads = usable_cores(), torch.get_num_threads()
    settings = ", ".join(
        f"{name}={os.environ[name]}"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND")
        if name in os.environ
    )
    found = f"{threads} of torch, {cores:g} usable of {os.cpu_count()} cores"
    advice = ""
    if threads > max(cores, 1):
        advice = f"Threads wait for each other: set OMP_NUM_THREADS={max(int(cores), 1)}."
    elif os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        advice = "Waiting threads take the cores from the CRF: unset OMP_WAIT_POLICY."
    elif cores > 1 and threads == 1:
        advice = "Training uses one core: unset OMP_NUM_THREADS, if the others are free."
    yield DoctorFinding(
        "threads", "note" if advice else "ok", f"{found} ({settings})" if settings else found, advice
    )
