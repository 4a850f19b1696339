"""Packages: what `find_packages` finds, and the folders that are installed inside the package.

Everything else is in pyproject.toml, which cannot combine the two. An installed copy has no repository to
ask, so the commit that it was built from lies beside its modules; `uss_bench.results.provenance` reads it.
"""

import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

MAPPED = ["uss_bench.methods", "uss_bench.datasets", "uss_bench.claims.data", "uss_bench.audit.ledger"]
ROOT = Path(__file__).resolve().parent


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def note_commit(package: Path) -> None:
    """Write the commit of this checkout; nothing where there is none, as in an sdist, which has the file."""
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
            (package / "commit.txt").write_text(f"{git('rev-parse', 'HEAD')[:12]}{changes}\n")
    except (OSError, subprocess.CalledProcessError):
        pass


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            note_commit(Path(self.build_lib, "uss_bench"))


class SDist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        note_commit(Path(base_dir, "uss_bench"))


setup(
    packages=[*find_packages(include=["uss_bench", "uss_bench.*"]), *MAPPED],
    cmdclass={"build_py": BuildPy, "sdist": SDist},
)
