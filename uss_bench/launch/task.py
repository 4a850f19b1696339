"""The process of one task: ``python -m uss_bench.launch.task FILE``.

Its output goes to a log beside the file, its progress to a second file, and its last state to a third. The
exit code is 0 when done, 1 when the run failed, 2 for a wrong request, and 130 when it was interrupted, also
by SIGTERM; an interrupted process, and one that dies, leaves no last state.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import UssBenchError
from uss_bench.experiment.cells import CellWork, Work, read_work
from uss_bench.files.atomic import atomic_write
from uss_bench.launch.launcher import CORES, State
from uss_bench.launch.local import GRACE_S, TIED
from uss_bench.launch.logs import logging_to
from uss_bench.launch.stored import Reporter
from uss_bench.runtime.installation import import_fault


def run_file(path: Path) -> int:
    """Run the task of a file in this process, and return its exit code.

    Everything relative in the task is relative to its own folder, which this process enters.
    """
    path = path.resolve()
    with logging_to(path.with_suffix(".log")):
        try:
            work = in_share(read_work(path))
            work.execution.enter()
            _set_threads(work.execution.threads)
            with Reporter(path.with_suffix(".now")):
                _run(work)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130
        except BaseException as error:  # also what ends a process: a plugin may have raised it
            return _failed(path, error)
        _end(path, State("done"))
    return 0


def in_share(work: Work) -> Work:
    """Use as many cores as the launcher was given for this process, where the user has not said how many."""
    cores = os.environ.get(CORES, "")
    if not cores.isdigit() or not int(cores):
        return work
    share, asked = int(cores), work.execution
    execution = msgspec.structs.replace(asked, threads=asked.threads or share, workers=asked.workers or share)
    return msgspec.structs.replace(work, execution=execution)


def _run(work: Work) -> None:
    from uss_bench.launch.running import extract, run_planned

    if isinstance(work, CellWork):
        run_planned(work)
    else:
        extract(work)


def _failed(path: Path, error: BaseException) -> int:
    traceback.print_exception(error)
    error = import_fault(error) or error
    ours = isinstance(error, UssBenchError)
    reason = str(error) if ours else f"{type(error).__name__}: {error}"
    _end(path, State("failed", reason))
    return error.exit_code if isinstance(error, UssBenchError) else 1


def _end(path: Path, state: State) -> None:
    try:
        atomic_write(path.with_suffix(".end"), msgspec.json.encode(state))
    except OSError as error:  # a full disk: the exit code is left
        print(f"{path.with_suffix('.end')} cannot be written: {error}", file=sys.stderr)


def _set_threads(threads: int | None) -> None:
    """Let torch, BLAS and numba use so many threads; before they are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _watch_parent() -> None:
    """End this process when its standard input does: when whoever started it is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)  # it was started as a group of its own, with whatever it has started


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    if os.environ.pop(TIED, ""):
        threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        sys.exit(run_file(Path(sys.argv[1])))
    except KeyboardInterrupt:  # before or after what is told in the log
        sys.exit(130)


if __name__ == "__main__":
    main()
