"""The doctor: each check finds what it is for, and says what to do."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from running import python

from uss_bench import doctor
from uss_bench.doctor import examine, folders, packages
from uss_bench.runtime.cores import usable_cores, whole_cores

NAMES = ["python", "packages", "compiler", "CRF, lattice", "GPU", "cache", "results", "temporary", "SLURM"]


def findings(check) -> dict[str, doctor.DoctorFinding]:
    return {one.name: one for one in check}


def test_this_machine_works_and_every_check_is_in_the_table(command, tmp_path):
    said = command("doctor", "--out", tmp_path)
    rows = re.findall(r"^(ok|note|problem) +(\S.*?)  ", said.out, re.MULTILINE)
    assert {*NAMES, "notebooks", "hub", "encoding", "threads"} <= {name for _, name in rows}
    assert "problem" not in {state for state, name in rows if name not in ("encoding", "packages")}


def test_without_a_kernel_notebooks_are_a_note(monkeypatch):
    version = metadata.version

    def absent(name: str) -> str:
        if name == "ipykernel":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", absent)
    found = findings(packages.check_notebooks())["notebooks"]
    assert found.state == "note"
    assert "pip install jupyterlab" in found.advice


@pytest.mark.parametrize(("offline", "state"), [(True, "note"), (False, "ok")])
def test_the_hub_is_a_note_where_it_may_not_be_asked(monkeypatch, offline, state):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/weights/hub")
    found = findings(packages.check_hub())["hub"]
    assert found.state == state
    assert "/weights/hub" in found.found


def test_json_says_the_same_and_a_problem_exits_with_1(command, tmp_path, monkeypatch):
    found = [
        doctor.DoctorFinding("a", "ok", "fine"),
        doctor.DoctorFinding("b", "problem", "broken", "mend it"),
    ]
    monkeypatch.setattr("uss_bench.doctor.examine", lambda out: iter(found))
    said = command("doctor", "--json")
    assert said.code == 1
    assert "found a problem: b" in said.err
    assert json.loads(said.out) == {
        "works": False,
        "findings": [
            {"name": "a", "state": "ok", "found": "fine", "advice": ""},
            {"name": "b", "state": "problem", "found": "broken", "advice": "mend it"},
        ],
    }
    assert re.search(r"problem +b +broken\n +→ mend it", command("doctor").out)
    found[1] = doctor.DoctorFinding("b", "note", "slow")
    said = command("doctor")
    assert said.code == 0
    assert "works here, with 1 note." in said.out


def test_a_check_that_raises_is_a_finding_and_stops_no_other(monkeypatch, tmp_path):
    def broken():
        raise ImportError("libfoo.so: cannot open shared object file")

    for name in ("check_crf", "check_gpu", "check_threads"):
        monkeypatch.setattr(doctor, name, broken)
    found = findings(examine(tmp_path))
    assert found["GPU"].state == "problem"
    assert "libfoo.so" in found["GPU"].found
    assert found["results"].state == "ok"


@pytest.fixture
def required(monkeypatch):
    """Let uss-bench declare other requirements."""

    def required(*requirements: str) -> None:
        monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))

    return required


def test_a_package_below_its_minimum_or_missing_is_a_problem_by_name(required):
    required(
        "numpy>=999", "click>=8", "no-such-package>=1", 'no-such-crf>=1; extra == "crf"', "x; extra == 'test'"
    )
    found = findings(doctor.check_packages())
    assert found["numpy"].state == "problem"
    assert f"{np.__version__}, and numpy>=999 is needed" in found["numpy"].found
    assert found["numpy"].advice == "pip install 'numpy>=999'"
    assert found["no-such-package"].state == "problem"
    assert found["no-such-crf"].state == "note"
    assert "uss-bench[crf]" in found["no-such-crf"].advice
    assert found["packages"].found.startswith("1 at")
    assert "x" not in found


def test_versions_are_compared_as_numbers(required, monkeypatch):
    required("click>=8.9")
    for version, state in (("8.10.0", None), ("8.9", None), ("8.8.99", "problem"), ("9.0rc1", None)):
        monkeypatch.setattr(metadata, "version", lambda name, version=version: version)
        found = findings(doctor.check_packages())
        assert (found["click"].state if "click" in found else None) == state


def test_a_python_that_is_too_old_is_a_problem(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.10.14")
    assert findings(doctor.check_python())["python"].state == "problem"
    monkeypatch.setattr("platform.python_version", lambda: "3.12.0rc1")
    assert findings(doctor.check_python())["python"].state == "ok"


def test_no_compiler_is_no_problem(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = findings(doctor.check_compiler())["compiler"]
    assert found.state == "note"
    assert "g++" in found.advice


def test_a_crf_whose_probabilities_are_wrong_is_found(monkeypatch):
    monkeypatch.setattr("uss_bench.crf.refine", lambda image, logits, **options: np.full(logits.shape, 0.4))
    assert findings(doctor.check_crf())["CRF, lattice"].state == "problem"


def test_engines_that_disagree_are_found(monkeypatch):
    pytest.importorskip("pydensecrf.densecrf")
    from uss_bench.crf import refine

    assert findings(doctor.check_crf())["CRF, pydensecrf"].state == "ok"

    def turned(image, logits, *, engine="lattice"):
        refined = refine(image, logits)
        return refined if engine == "lattice" else refined[::-1]

    monkeypatch.setattr("uss_bench.crf.refine", turned)
    found = findings(doctor.check_crf())["CRF, pydensecrf"]
    assert found.state == "problem"
    assert re.match(r"\d+ of 768 pixels", found.found)


def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "runs on the CPU" in findings(doctor.check_gpu())["GPU"].found
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    found = findings(doctor.check_gpu())["GPU"]
    assert (found.state, "cannot use the GPU" in found.found) == ("note", True)


def test_a_gpu_that_fails_is_a_problem(monkeypatch):
    def fail(*arguments, **keywords):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H1")
    monkeypatch.setattr(torch, "eye", fail)
    found = findings(doctor.check_gpu())["GPU"]
    assert (found.state, found.found) == (
        "problem",
        "H1 cannot be used: CUDA error: no kernel image is available",
    )


def test_folders_that_cannot_be_written_are_found_and_nothing_is_left(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("where a folder should be")
    monkeypatch.setenv("USS_BENCH_CACHE", str(file / "cache"))
    found = findings(doctor.check_folders(file / "results"))
    assert found["results"].state == "problem"
    assert "--out" in found["results"].advice
    assert found["cache"].state == "note"  # features are then streamed
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "new"))
    assert findings(doctor.check_folders(tmp_path / "a" / "b"))["results"].state == "ok"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_system_without_locks_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "_fault_of_locks", lambda folder: "No locks available")
    found = findings(doctor.check_folders(tmp_path))["results"]
    assert (found.state, "cannot be locked: No locks available" in found.found) == ("problem", True)


def test_a_lock_that_keeps_nobody_out_is_found(monkeypatch, tmp_path):
    assert folders._fault_of_locks(tmp_path) == ""
    monkeypatch.setattr(filelock.FileLock, "_acquire", lambda self: setattr(self._context, "lock_file_fd", 1))
    monkeypatch.setattr(
        filelock.FileLock, "_release", lambda self: setattr(self._context, "lock_file_fd", None)
    )
    assert folders._fault_of_locks(tmp_path) == "two processes would hold the same lock"


def test_folders_inside_the_results_that_are_closed_are_named(monkeypatch, tmp_path):
    (tmp_path / "toy3").mkdir()
    (tmp_path / "toy27").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "toy3")
    found = findings(doctor.check_folders(tmp_path))["results, inside"]
    assert found.state == "problem"
    assert found.found.startswith("toy3 in ")


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Put programs named like SLURM's at the head of PATH."""

    def cluster(sinfo: str = "echo 'debug*'; echo gpu") -> None:
        for name in ("sbatch", "squeue", "scancel", "srun", "sinfo"):
            script = sinfo if name == "sinfo" else "echo slurm 22.05.8"
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return cluster


def slurm() -> tuple[str, str]:
    (found,) = doctor.check_slurm()
    return found.state, found.found


def test_a_machine_without_slurm_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm() == ("note", "none here: cells run on this machine")


def test_a_cluster_is_told_with_its_partitions(cluster, monkeypatch):
    cluster()
    monkeypatch.setattr(metadata, "version", lambda name: "1.5.3")
    assert slurm() == ("ok", "slurm 22.05.8, partitions: debug*, gpu; submitit 1.5.3")


def test_a_cluster_that_does_not_answer_or_lacks_a_program_is_told(cluster, tmp_path):
    cluster("echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm() == ("note", "slurm 22.05.8 does not answer")
    (tmp_path / "scancel").unlink()
    if shutil.which("scancel") is None:
        assert slurm() == ("note", "scancel cannot be found")


def test_submitit_that_is_missing_or_too_old_is_told_on_a_cluster(cluster, monkeypatch):
    cluster()
    monkeypatch.setattr(metadata, "requires", lambda name: ['submitit>=1.5; extra == "slurm"'])
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.0")
    assert slurm()[1].endswith("submitit 1.2.0, and >=1.5 is needed")

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert slurm()[1].endswith("submitit is not installed")


@pytest.mark.parametrize(("free", "state"), [(10**7, "problem"), (5 * 10**8, "note"), (10**11, "ok")])
def test_a_disk_that_is_nearly_full_is_found(monkeypatch, tmp_path, free, state):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    assert findings(doctor.check_folders(tmp_path))["results"].state == state


def test_a_tmpdir_that_is_not_used_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert f"{tmp_path} is" in findings(doctor.check_folders(tmp_path))["TMPDIR"].found


def test_a_terminal_without_utf_8_is_a_problem_that_the_doctor_survives(tmp_path):
    code = """
import sys, unittest.mock as mock
from uss_bench import doctor
from uss_bench.cli import main
checks = ("python", "packages", "compiler", "crf", "gpu", "folders", "slurm", "threads")
for name in checks:
    setattr(doctor, f"check_{name}", lambda *given: iter([doctor.DoctorFinding("ü", "note", "–", "±")]))
sys.argv = ["uss-bench", "doctor"]
main()
"""
    said = python(f"import sys; sys.stdout.reconfigure(encoding='ascii')\n{code}", cwd=tmp_path)
    assert said.returncode == 1
    assert re.search(r"problem +encoding +tables cannot be printed: the output is ascii", said.stdout)
    assert "PYTHONUTF8=1" in said.stdout
    assert "found a problem: encoding" in said.stderr


def test_more_threads_than_cores_are_told_with_the_setting(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2.0)
    for threads, state in ((8, "note"), (2, "ok"), (1, "note")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert findings(doctor.check_threads())["threads"].state == state
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert "OMP_NUM_THREADS=2" in findings(doctor.check_threads())["threads"].advice


def test_the_quota_of_a_control_group_counts(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    for text, cores in (("150000 100000\n", 1.5), ("max 100000\n", 8.0), ("1600000 100000\n", 8.0)):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert usable_cores() == cores
        assert whole_cores() == int(cores)
