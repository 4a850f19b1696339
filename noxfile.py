"""The one entry to every check: ``nox -l`` lists the sessions.

Sessions run in the environment that nox itself is installed in, so that torch is installed once and
not once per session: ``pip install -e ".[dev]"`` first. Only `wheel` and `minimums` make others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

PYTHON = sys.executable
ROOT = Path(__file__).parent
CODE = [
    "uss_bench",
    "methods",
    "datasets",
    "tests",
    "benchmarks",
    "docs",
    "noxfile.py",
    "setup.py",
]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests in a few processes; arguments after -- go to pytest."""
    processes = min(4, os.cpu_count() or 1)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    session.run(
        *(PYTHON, "-m", "pytest", "-n", str(processes), "--dist", "loadfile", *session.posargs),
        env={"OMP_NUM_THREADS": threads},
    )


@nox.session
def methods(session: nox.Session) -> None:
    """Train every method on the planted world at length, with and without its own terms (minutes each)."""
    session.run(PYTHON, "-m", "pytest", "-m", "slow", "tests/methods", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.run(PYTHON, "-m", "ruff", "check", *CODE)
    session.run(PYTHON, "-m", "ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly: the package and the plugins."""
    session.run(PYTHON, "-m", "mypy")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, install each in a clean environment, and run the command line.

    The environments borrow the dependencies that are installed here; with ``-- --full`` they install
    their own, as a user's would.
    """
    full = "--full" in session.posargs
    work = Path(session.create_tmp()).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    session.run(PYTHON, "-m", "build", "--outdir", str(work / "dist"), str(ROOT), silent=True)
    (built,) = (work / "dist").glob("*.whl")
    (source,) = (work / "dist").glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in _SHIPPED:
        if needed not in names:
            session.error(f"the sdist lacks {needed}")
    for kind, target in (("wheel", built), ("sdist", source)):
        environment = work / kind
        session.run(PYTHON, "-m", "venv", str(environment))
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        arguments = ["install", "--quiet", str(target)]
        if not full:
            arguments.append("--no-deps")
            borrow = session.run(
                str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True
            )
            lender = sysconfig.get_path("purelib")
            (Path(str(borrow).strip()) / "borrowed.pth").write_text(f"{lender}\n")
        session.run(str(python), "-m", "pip", *arguments, external=True)
        command = [str(python), "-c", "from uss_bench.cli import main; main()"]
        with session.chdir(work):
            session.run(str(python), "-c", _WHERE_FROM, str(environment))
            session.run(*command, "--help", silent=True)
            session.run(*command, "ls")
            session.run(*command, *_JOB.split())


_JOB = "run --method dino --dataset toy3 --limit 8 --set steps=20 --quiet"

_SHIPPED = (
    "LICENSE",
    "README.md",
    "datasets/toy3/spec.toml",
    "leaderboards/claims/ds2dl.toml",
    "leaderboards/protocols/stego.toml",
    "methods/smooseg/spec.toml",
    "methods/smooseg/studies/table4.toml",
    "uss_bench/backbones/tinyvit/tinyvit.safetensors",
    "uss_bench/board/assets/board.js",
    "uss_bench/requirements.lock",
)

_WHERE_FROM = """
import importlib.util, pathlib, sys
environment = pathlib.Path(sys.argv[1])
origin = pathlib.Path(importlib.util.find_spec("uss_bench").origin)
assert environment in origin.parents, f"uss_bench comes from {origin}, not from the clean environment"
assert importlib.util.find_spec("methods") is None, "'methods' is importable at the top level"
"""


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests on the lowest versions that pyproject.toml declares, in an environment of their own.

    What the declared packages need themselves is as new as they allow, and old packages call what new ones
    have deprecated: deprecations, which `nox -s tests` counts as errors, are ignored here, and no other
    warning. Tests marked `pinned` are left out. The environment takes 6 GB; it is kept, and made again when
    pyproject.toml changes.
    """
    work = ROOT / ".nox" / "minimums"
    python = work / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    declared = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    made_from = work / "pyproject.sha256"
    if not made_from.is_file() or made_from.read_text() != declared:
        shutil.rmtree(work, ignore_errors=True)
        session.run(PYTHON, "-m", "pip", "install", "--quiet", "uv>=0.4")
        uv = [PYTHON, "-m", "uv"]
        session.run(*uv, "venv", "--quiet", "--python", PYTHON, str(work))
        install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--resolution", "lowest-direct"]
        session.run(*install, "--editable", f"{ROOT}[test]")
        made_from.write_text(declared)
    options = ["-W", "ignore::DeprecationWarning", "-m", "not pinned and not slow"]
    session.run(str(python), "-m", "pytest", *options, *session.posargs, external=True)


@nox.session
def crf(session: nox.Session) -> None:
    """Prove the CRF engine against pydensecrf, which this session builds (needs a C++ compiler)."""
    session.run(PYTHON, "-m", "pip", "install", "--quiet", "pydensecrf2>=1.1")
    session.run(PYTHON, "-m", "pytest", "tests/crf/test_crf_reference.py", *session.posargs)


@nox.session
def numbers(session: nox.Session) -> None:
    """Check that no number moved: records, boards, claims, and the golden runs."""
    records = "--records leaderboards/records"
    for command in (
        f"audit records {records}",
        f"board build {records} --out leaderboards/boards --check",
        f"regress claims {records}",
        "regress golden",
    ):
        session.run(PYTHON, "-m", "uss_bench", *command.split())


@nox.session
def lock(session: nox.Session) -> None:
    """Write uss_bench/requirements.lock: what uss-bench needs, in the versions that are installed here."""
    from uss_bench.results.lock import LOCK, locked

    LOCK.write_text(f"# Written by: nox -s lock (Python 3.11, Linux x86-64)\n{locked()}")


@nox.session
def board(session: nox.Session) -> None:
    """Open the board in a headless browser; needs Chromium (Debian: apt install chromium)."""
    session.run(PYTHON, "-m", "pip", "install", "--quiet", "playwright>=1.40")
    session.run(PYTHON, "-m", "pytest", "tests/board/test_board_browser.py", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, fill, break and interrupt real runs, and count what was lost; USS_BENCH_FAULTS_SEED picks others.

    Some faults mount small disks or give up root, and are skipped, saying so, where that cannot be done.
    """
    session.run(PYTHON, "-m", "pytest", "-s", "tests/faults", *session.posargs, env={"USS_BENCH_FAULTS": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed fifty times as many spoilt files to the readers as the tests do, other ones each time."""
    readers = sorted(str(path) for path in (ROOT / "tests").glob("*/test_fuzz_*.py"))
    times = os.environ.get("USS_BENCH_FUZZ", "50")
    session.run(PYTHON, "-m", "pytest", *readers, *session.posargs, env={"USS_BENCH_FUZZ": times})


@nox.session
def slurm(session: nox.Session) -> None:
    """Run cells on a real SLURM, started here; with ``-- --write`` renew the log in docs/slurm."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if not all(shutil.which(name, path=search) for name in ("slurmctld", "slurmd", "munged")):
        if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("apt-get") is None:
            session.skip("SLURM is not installed, and only root can: apt-get install slurm-wlm munge")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        session.run("apt-get", "update", external=True, silent=True, env=quiet)
        session.run("apt-get", "install", "-y", "slurm-wlm", "munge", external=True, silent=True, env=quiet)
    session.run(PYTHON, "-m", "pip", "install", "--quiet", "submitit>=1.5")
    environment = {"USS_BENCH_SLURM": "1"}
    if "--write" in session.posargs:
        environment["USS_BENCH_SLURM_REPORT"] = str(ROOT / "docs" / "slurm")
    arguments = [one for one in session.posargs if one != "--write"]
    session.run(PYTHON, "-m", "pytest", "tests/slurm", *arguments, env=environment)


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark at small size, and write one page of what they print to build/bench.md."""
    session.run(PYTHON, str(ROOT / "benchmarks" / "all.py"), "--small", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write what scripts make of the docs, then build the site, notebooks included, into build/site.

    ``-- --check`` only compares the pages, ``-- --fast`` builds the site without running the notebooks.
    """
    for script in ("build", "published", "scale", "measured", "habits", "figures", "website"):
        session.run(PYTHON, f"docs/{script}.py", *session.posargs)
