"""Whether runs can be sent to SLURM from here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from uss_bench.doctor.finding import DoctorFinding

_PROGRAMS = ("sbatch", "squeue", "scancel", "srun")
_PATIENCE_S = 15


def missing_programs() -> list[str]:
    """Return which of SLURM's programs that submitting needs are not on PATH."""
    return [name for name in _PROGRAMS if shutil.which(name) is None]


def check_slurm() -> Iterator[DoctorFinding]:
    """Ask SLURM for its partitions, and look for submitit, which only ``--launcher slurm`` needs."""
    missing = missing_programs()
    if len(missing) == len(_PROGRAMS):
        yield DoctorFinding("SLURM", "note", "none here: cells run on this machine")
        return
    if missing:
        advice = "Use a login node of the cluster, or add SLURM's programs to PATH."
        yield DoctorFinding("SLURM", "note", f"{', '.join(missing)} cannot be found", advice)
        return
    version, partitions = _ask("sbatch", "--version"), _ask("sinfo", "--noheader", "--format=%P")
    if partitions is None:
        advice = "--launcher slurm will not work: is slurmctld up, and does SLURM_CONF name its file?"
        yield DoctorFinding("SLURM", "note", f"{version or 'SLURM'} does not answer", advice)
        return
    names = ", ".join(partitions.split()) or "none"
    found = f"{version}, partitions: {names}"
    needed, advice = _declared("submitit"), "pip install 'uss-bench[slurm]'"
    try:
        installed = metadata.version("submitit")
    except metadata.PackageNotFoundError:
        yield DoctorFinding("SLURM", "note", f"{found}; submitit is not installed", advice)
        return
    if needed is not None and not needed.specifier.contains(installed, prereleases=True):
        old = f"{found}; submitit {installed}, and {needed.specifier} is needed"
        yield DoctorFinding("SLURM", "note", old, advice)
        return
    yield DoctorFinding("SLURM", "ok", f"{found}; submitit {installed}")


def _declared(name: str) -> Requirement | None:
    found = map(Requirement, metadata.requires("uss-bench") or [])
    return next((one for one in found if one.name == name), None)


def _ask(*command: str) -> str | None:
    """Return what a program of SLURM answers; None when it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
